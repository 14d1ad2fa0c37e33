"""The last page: every setting beside the paper's 88.7 s and the floor, a plot, and the setting to use on this card."""

from collections.abc import Mapping
from pathlib import Path

from .plot import attention_rates, draw
from .rows import Row, read
from .setting import OURS, Setting, best, settings

PAPER_S = 88.7
PAPER_PRESET = "dvgwm_5b"
TOLD = ("driver, power limit, clock", "torch", "triton", "cudnn", "commit")
"""What the page says of the machine and the code."""


def write_report(file: Path, facts: Mapping[str, object]) -> str:
    """Write FILE.md and FILE.png from the rows of this machine, and return the page."""
    gpu, preset = facts["gpu"], str(facts["preset"])
    found = settings(file, gpu, preset)
    plot = draw(file, found, gpu, preset, {row["variant"]: row["median_s"] for row in plans(file, gpu, preset)})
    lines = [
        f"# {preset} on {gpu or 'no GPU: a trial of the code, its times mean nothing'}",
        "",
        *(f"{name}: {facts[name]}" for name in TOLD if facts.get(name)),
        "",
        *table(found, preset),
        "",
        *product(file, gpu, preset),
        advice(found, preset),
        *attention(file, gpu, preset),
        *earlier(file, gpu, preset),
        *refusals(file, gpu, preset),
        "",
        f"Rows: {file}",
    ]
    page = "\n".join([*lines, *([f"Plot: {plot}"] if plot else [])])
    file.with_suffix(".md").write_text(page + "\n")
    return page


def table(found: tuple[Setting, ...], preset: str) -> list[str]:
    """Return a row per setting; stages are their forwards times their steps."""
    if not found:
        return ["Neither preview nor refiner is measured yet."]
    lines = [
        "| setting | preview | refine | decode | plan | of its floor | against 88.7 s | error | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        share = None
        if each.floor_s is not None and each.preview_s is not None and each.refine_s is not None:
            share = each.floor_s / (each.preview_s + each.refine_s)
        against = "not its work" if preset != PAPER_PRESET else _times(PAPER_S, each.plan_s)
        stages = [_seconds(value) for value in (each.preview_s, each.refine_s, each.decode_s, each.plan_s)]
        cells = [
            each.name,
            *stages,
            _number(share, ".2f"),
            against,
            _number(each.error, ".1e"),
            _number(each.gb, ".1f", " GB"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def earlier(file: Path, gpu: object, preset: str) -> list[str]:
    """Return the table of an earlier benchmark's rows, if it measured this network on this card."""
    found = settings(file, gpu, None) if preset == PAPER_PRESET else ()
    if not found:
        return []
    title = "Old rows, of other code: not to be compared with those above (their error is that of latents after three steps)."
    return ["", title, "", *table(found, preset)]


def plans(file: Path, gpu: object, preset: str) -> list[Row]:
    """Return the rows of whole plans through the product on this card, the newest last."""
    rows = (row for row in read(file) if row["part"] == "plan" and row["name"] == "plan" and "median_s" in row)
    return [row for row in rows if row.get("gpu") == gpu and row.get("preset") == preset]


def product(file: Path, gpu: object, preset: str) -> list[str]:
    """Return the seconds of a plan through the product, if measured: a line, and its stages."""
    measured = plans(file, gpu, preset)
    if not measured:
        return ["Through the product: not measured yet (part `plan`)."]
    plan = measured[-1]
    stages = {
        row["variant"]: row for row in read(file) if row["name"] == "plan stage" and row.get("key") == plan.get("key")
    }
    faster = (
        f", {PAPER_S / plan['median_s']:.1f} x faster than the paper's {PAPER_S} s" if preset == PAPER_PRESET else ""
    )
    lines = [f"Through the product, from a bundle in {plan['variant']}: {_seconds(plan['median_s'])} a plan{faster}."]
    told = ", ".join(f"{name} {_seconds(row['median_s'])}" for name, row in stages.items())
    lines += [f"Stage by stage: {told}."]
    lines += [f"Without a captured graph: {name} ({why})." for name, why in (plan.get("uncaptured") or {}).items()]
    return lines


def advice(found: tuple[Setting, ...], preset: str) -> str:
    """Return the setting to use on this card, and why."""
    chosen = best(found)
    if chosen is None:
        return "Which setting to use: measure preview, refine and decode first."
    # Measured packages have no open sizes (`product.graph_of`).
    command = f"python export/build_engines.py --preset {preset} --backend torch --static --precision {chosen.name}"
    others = [each for each in found if each.name not in OURS and each.plan_s is not None]
    nearest = min(others, key=lambda each: each.plan_s, default=None)
    beside = f"; {nearest.name} {_seconds(nearest.plan_s)}" if nearest else ""
    return f"Use on this card: `{command}` ({_seconds(chosen.plan_s)} a plan{beside})."


def attention(file: Path, gpu: object, preset: str) -> list[str]:
    """Return the rate of every form of attention, fastest first: the order for `kernels.attention.FORMS` and tiles."""
    lines = []
    for shape, rates in attention_rates(file, gpu, preset).items():
        ordered = sorted(rates.items(), key=lambda pair: -pair[1])
        lines.append(
            f"Attention at {shape}, TFLOP/s: {', '.join(f'{name} {rate / 1e12:.0f}' for name, rate in ordered)}."
        )
    return lines


def refusals(file: Path, gpu: object, preset: str) -> list[str]:
    """Return the variants without a figure, and why, the last word on each."""
    last: dict[tuple[str, str], Row] = {}
    for row in read(file):
        if row.get("gpu") == gpu and row.get("preset") == preset and "variant" in row:
            last[row["name"], row["variant"]] = row
    return [
        f"Did not run: {name}, {variant}: {row['refused']}" for (name, variant), row in last.items() if "refused" in row
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _times(over: float, under: float | None) -> str:
    return "-" if under is None else f"{over / under:.1f} x"
