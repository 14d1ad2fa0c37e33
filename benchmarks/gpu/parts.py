"""The parts of the benchmark in the order of their worth: module, minutes, requirements.

Attention comes first, as it decides most in least time. `plan` comes right after `decode`: an idle machine is given back,
and the engines on it are gone.
"""

import importlib.util
import re
import tomllib
from dataclasses import dataclass

from .code import ROOT, hash_of, libraries_of

PACKAGE = "benchmarks.gpu"
DISTRIBUTIONS = {"PIL": "Pillow", "cuda": "cuda-core"}
"""Names of packages, if they are not their library's."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its ``module``, and its ``minutes`` on an H200 at full size, thought, or ``measured`` of an earlier form of it.

    A variant above ``limit_s`` has no end.
    """

    name: str
    module: str
    minutes: float
    measured: bool
    about: str
    limit_s: float = 150.0

    @property
    def code(self) -> str:
        """A hash of the part's code."""
        return hash_of(f"{PACKAGE}.{self.module}")

    @property
    def libraries(self) -> tuple[str, ...]:
        """The libraries needed by the part."""
        return tuple(
            sorted({*libraries_of(f"{PACKAGE}.{self.module}"), "triton"})
        )  # without it the twins would be timed

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages to install first, by pip's names."""
        return tuple(wanted(name) for name in self.libraries if not here(name))


PARTS = {
    part.name: part
    for part in (
        Part("ceilings", "kernels", 0.1, True, "what this card can do at most: copies, matrix products"),
        Part("attention", "attention", 2.0, False, "attention: the library's, ours, ours with other tiles"),
        Part("preview", "denoisers", 1.5, True, "one forward of the preview in every setting, beside diffusers"),
        Part("refine", "denoisers", 1.5, True, "the same of the refiner"),
        Part("decode", "decoder", 1.5, False, "the decoder beside diffusers'", 240),
        Part(
            "plan",
            "product",
            8.0,
            False,
            "the fastest setting built as a user does, and its plans through the product",
        ),
        Part("kernels", "kernels", 1.0, True, "every other kernel, beside eager and compiled torch"),
        Part("one_stage", "denoisers", 4.0, False, "the paper's baseline: one stage at the refined size", 240),
    )
}


def here(library: str) -> bool:
    """Return whether ``library`` is installed."""
    return importlib.util.find_spec(library) is not None


def wanted(library: str) -> str:
    """Return the project's requirement for ``library``; its name if there is none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    name = DISTRIBUTIONS.get(library, library)
    return next((line for line in stated if re.split(r"[^\w-]", line)[0].lower() == name.lower()), name)
