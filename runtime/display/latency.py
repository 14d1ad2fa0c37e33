"""The time of every stage against the paper's 88.7 s."""

from collections.abc import Sequence

from rich.table import Table

from ..bundle.manifest import Manifest, StageSpec
from ..profiler import UNATTRIBUTED, StageRow
from .tables import text_table

PAPER_S = 88.7
"""One DVG-WM video (paper, Table 2); the GPU is not named."""
PAPER_FLOP = 7.171e15
"""Preview 6,370, refine 480, decode 315 and first-frame encode 6 TFLOP at 256x384 -> 480x720, 49 frames, 50 + 4 steps."""


def is_paper_work(manifest: Manifest, stages: Sequence[StageSpec], frames: int) -> bool:
    """Return whether a plan does the work that the paper timed: only then its time may be set against 88.7 s."""
    steps = {stage.name: stage.sampler.steps for stage in stages if stage.sampler is not None}
    return (
        manifest.model.preset == "dvgwm_5b"
        and (manifest.input.height_px, manifest.input.width_px, frames) == (480, 720, 49)
        and (steps.get("preview"), steps.get("refine")) == (50, 4)
    )


def against_paper(plan_s: float, plan_flop: float, paper_work: bool) -> str:
    """Return what may honestly be said of a plan's time beside the paper's."""
    if paper_work:
        return f"{PAPER_S / plan_s:.1f} x faster"
    return f"not comparable: {plan_flop / PAPER_FLOP:.2g} x of the work"


def latency_table(rows: Sequence[StageRow], cold_start_s: float, plans: int, verdict: str) -> Table:
    """Return the table of stages; the totals sum to the wall time without the cold start."""
    lines = [
        (
            row.name,
            "" if row.name == UNATTRIBUTED else str(row.calls),
            seconds(row.mean_s),
            seconds(row.total_s),
            f"{row.share:.1%}",
            work(row.flop),
        )
        for row in rows
    ]
    table = text_table("where the time went", ["stage"], ["calls", "mean", "total", "share", "work"], lines)
    table.add_section()
    wall_s, flop = sum(row.total_s for row in rows), sum(row.flop for row in rows)
    table.add_row("sum = wall time", "", "", seconds(wall_s), "100.0%", work(flop))
    table.add_row("cold start, apart", "", "", seconds(cold_start_s), "", "")
    table.add_row("paper, one plan", "", f"{PAPER_S:.1f} s", "", "", work(PAPER_FLOP))
    table.caption = f"{plans} plan{'s' if plans != 1 else ''}; against the paper's {PAPER_S} s: {verdict}"
    return table


def seconds(value: float) -> str:
    """Return a time for people: 12.3 s, 4.56 ms, 78 us."""
    size = abs(value)
    if size >= 1.0:
        return f"{value:.2f} s"
    return f"{value * 1e3:.2f} ms" if size >= 1e-3 else f"{value * 1e6:.0f} us"


def work(flop: float) -> str:
    """Return an amount of work for people: 812 GFLOP; nothing for none."""
    for unit, name in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if flop >= unit:
            return f"{flop / unit:.3g} {name}"
    return ""
