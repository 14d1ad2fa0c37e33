"""One self-contained HTML page of a run (`report.html` is its template): frames, video, latency bar, events, facts."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..errors import printable
from ..familiar import Unfamiliar
from ..files import write_atomic
from ..profiler import UNATTRIBUTED, Profiler, StageRow
from ..types import ArmEvent, ImageArray, MotionRecord, Plan
from .actions import PlannedActions
from .joints import joints_drawing
from .latency import PAPER_FLOP, PAPER_S, seconds, work
from .strips import HEIGHT as STRIP_HEIGHT
from .strips import WIDTH as STRIP_WIDTH
from .video import contact_sheet, png

PALETTE = (
    "#0077bb", "#ee7733", "#aaee99", "#6666ff", "#eedd00", "#883300", "#bbbbff", "#882266", "#886655", "#2233aa", "#0000ff"
)  # fmt: skip
"""Colours that are at least 24 apart in CIELAB for all, also for readers without red or green cones (Machado et al. 2009)."""
REST = "#c3cbd4"
"""Colour of what no stage accounts for."""
EVERY = 6
"""Every sixth frame is shown in the strip."""
LETTER = 0.011
"""Width of a letter as a share of the bar's."""
INKS = "#000000", "#ffffff"


@dataclass(frozen=True, slots=True)
class Finished:
    """A run's facts for its page. Frames are uint8 T H W 3: imagined ones, and the ones seen while they were acted on.

    They are every ``every``-th one of the run. ``seen_as`` is the kind of the seen ones (recorded, simulated, real),
    ``unfamiliar`` everything new to the bundle.
    """

    title: str
    outcome: str
    facts: Mapping[str, str]
    plans: Sequence[Plan]
    imagined: ImageArray
    seen: ImageArray
    events: Sequence[ArmEvent]
    profiler: Profiler
    cold_start_s: float
    wall_s: float
    result: Mapping[str, Any]
    motion: MotionRecord | None = None
    every: int = 1
    seen_as: str = "seen"
    planned: PlannedActions | None = None
    unfamiliar: Sequence[Unfamiliar] = ()

    @property
    def labels(self) -> tuple[str, str]:
        """The captions of the two videos."""
        return "imagined", self.seen_as


def write_report(
    path: Path, done: Finished, *, warning: str | None, facts: Mapping[str, str], video: Path, rows: Sequence[StageRow],
    verdict: str, result: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the page to ``path``, ``warning`` as a banner; raises `RecordingError` if it cannot be written."""
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
        strip=_embedded(png(contact_sheet([done.imagined, done.seen], EVERY)), "image/png"),
        every=EVERY,
        rows=rows,
        bars=list(_bars(rows)),
        joints=None if done.motion is None else joints_drawing(done.motion),
        actions=None if done.planned is None else done.planned.drawing(),
        strip_width=STRIP_WIDTH,
        strip_height=STRIP_HEIGHT,
        unattributed=UNATTRIBUTED,
        paper_s=PAPER_S,
        paper_flop=PAPER_FLOP,
        verdict=verdict,
        result=json.dumps(result, indent=1),
    )
    write_atomic(path, page.encode())


def _bars(rows: Sequence[StageRow]) -> Iterator[dict[str, Any]]:
    """Yield every stage's share of the bar, its colour, its name's colour, and whether the name fits inside."""
    for index, row in enumerate(rows):
        share = max(row.share, 0.0)
        colour = REST if row.name == UNATTRIBUTED else PALETTE[index % len(PALETTE)]
        ink = max(INKS, key=lambda each: contrast(each, colour))
        yield {"row": row, "share": share, "colour": colour, "ink": ink, "fits": share > LETTER * (len(row.name) + 1)}


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours ``#rrggbb``, 1 to 21 (WCAG 2.2, contrast ratio)."""
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _visible(value: Any) -> Any:
    """Return a text with escapes for invisible characters, line by line; anything else as it is."""
    if type(value) is not str:
        return value
    return "\n".join(map(printable, value.split("\n")))


def _embedded(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
