"""One self-contained HTML page of a run (`report.html` is its template): frames, video, latency bar, events, facts."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..errors import printable
from ..files import write_atomic
from ..profiler import UNATTRIBUTED, Profiler, StageRow
from ..types import ArmEvent, ImageArray, MotionRecord, Plan
from .joints import joints_drawing
from .latency import PAPER_FLOP, PAPER_S, seconds, work
from .video import contact_sheet, png

PALETTE = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#f0e442", "#999999", "#332288", "#882255")
"""Okabe and Ito's colours, told apart by colour-blind readers, and two of Tol's."""
REST = "#c3cbd4"
"""Colour of what no stage accounts for."""
EVERY = 6
"""Every sixth frame is shown in the strip."""
BAR_WIDTH = 1000
"""Width of the bar of all stages, in the units of its drawing."""


@dataclass(frozen=True, slots=True)
class Finished:
    """All that a run has to show. Frames are uint8 T H W 3: those imagined, and those seen while they were acted on.

    They are every ``every``-th one of the run.
    """

    title: str
    outcome: str
    facts: Mapping[str, str]
    plans: Sequence[Plan]
    imagined: ImageArray
    real: ImageArray
    events: Sequence[ArmEvent]
    profiler: Profiler
    cold_start_s: float
    wall_s: float
    result: Mapping[str, Any]
    motion: MotionRecord | None = None
    every: int = 1


def write_report(
    path: Path, done: Finished, *, warning: str | None, facts: Mapping[str, str], video: Path, rows: Sequence[StageRow],
    verdict: str, result: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the page to ``path``, ``warning`` as a banner; raises `RecordingError` where it cannot be written."""
    pages = Environment(
        loader=PackageLoader("dvgwm.runtime", "display"),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
        finalize=_visible,
    )
    pages.filters |= {"seconds": seconds, "work": work, "percent": "{:.1%}".format}
    page = pages.get_template("report.html").render(
        done=done,
        warning=warning,
        facts=facts,
        video=_embedded(video.read_bytes(), "image/gif" if video.suffix == ".gif" else "video/mp4"),
        strip=_embedded(png(contact_sheet([done.imagined, done.real], EVERY)), "image/png"),
        every=EVERY,
        rows=rows,
        bars=list(_bars(rows)),
        joints=None if done.motion is None else joints_drawing(done.motion),
        unattributed=UNATTRIBUTED,
        paper_s=PAPER_S,
        paper_flop=PAPER_FLOP,
        verdict=verdict,
        result=json.dumps(result, indent=1),
    )
    write_atomic(path, page.encode())


def _bars(rows: Sequence[StageRow]) -> Iterator[dict[str, Any]]:
    """Yield where every stage lies in the bar, its colour, and whether its name fits inside."""
    x = 0.0
    for index, row in enumerate(rows):
        width = max(row.share, 0.0) * BAR_WIDTH
        colour = REST if row.name == UNATTRIBUTED else PALETTE[index % len(PALETTE)]
        yield {"row": row, "x": x, "width": width, "colour": colour, "fits": width > 9 * len(row.name) + 16}
        x += width


def _visible(value: Any) -> Any:
    """Return a text with escapes for what cannot be seen, line by line, and anything else as it is."""
    if type(value) is not str:
        return value
    return "\n".join(map(printable, value.split("\n")))


def _embedded(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
