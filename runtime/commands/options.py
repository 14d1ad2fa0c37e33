"""Types of options (paths, texts, numbers, names of plug-ins), and the options of several commands."""

from math import isfinite
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from .. import entries
from .program import together

LARGEST_SEED = 2**63 - 1


class PathOption(click.Path):
    """A path; it is not empty."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; an empty text would mean the working directory."""
        if not str(value).strip():
            self.fail("wanted a path, got an empty one", param, ctx)
        return super().convert(value, param, ctx)


class Words(click.ParamType[str]):
    """A text; it is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        if not str(value).strip():
            self.fail("wanted something, got an empty text", param, ctx)
        return str(value)


class Number(click.FloatRange):
    """A finite number in a range: a comparison alone lets NaN through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"wanted a finite number, got {value}", param, ctx)
        return number


class Registered(click.ParamType[str]):
    """The name of an installed robot or backend; a shell completes it. Unknown ones are told when they are loaded."""

    name = "text"

    def __init__(self, group: str) -> None:
        self.group = group

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names with this beginning."""
        return [CompletionItem(name) for name in entries.names(self.group) if name.startswith(incomplete)]


Positive = click.IntRange(min=1)
Seed = click.IntRange(min=0, max=LARGEST_SEED)
Seconds = Number(min=0.0, max=1e6)
Memory = Number(min=0.001, max=1e6)


class PlanTime(click.ParamType[Any]):
    """``frozen``, ``measured`` or a number of seconds, at most an hour."""

    name = "frozen|measured|SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word or the number, as text."""
        if value in ("frozen", "measured"):
            return value
        return str(Number(min=0.0, max=3600.0).convert(value, param, ctx))


bundle_options = together(
    click.option("--bundle", type=PathOption(), help="Bundle directory (default: the shipped one)."),
    click.option(
        "--backend",
        type=Registered("backends"),
        help="Engine library: tensorrt, tensorrt_rtx, or the one that the bundle was built for (default).",
    ),
    click.option("--threads", type=Positive, help="CPU threads of the engines (default: one per core)."),
    click.option("--sampler", "preview_sampler", help="Preview sampler, such as ddim_v, dpmpp_2m."),
    click.option("--steps", "preview_steps", type=int, help="Preview steps (default: the bundle's)."),
    click.option("--guidance", type=float, help="Guidance of the preview; 1 switches it off."),
    click.option("--refine-steps", type=int, help="Euler steps of the refiner (default: the bundle's)."),
    click.option("--cache-dir", type=PathOption(), help="Where prompts and engines made here are kept."),
    click.option(
        "--memory",
        "memory_gb",
        type=Memory,
        metavar="GB",
        help="Memory that all may take: engines that do not fit beside others are loaded for their stage alone.",
    ),
)
"""The choice of a bundle, and how its samplers run."""
rebuild_option = click.option(
    "--rebuild",
    is_flag=True,
    help="Compile first the engines that this GPU lacks (--backend tensorrt, tensorrt_rtx).",
)
