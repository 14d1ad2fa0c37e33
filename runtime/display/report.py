"""One self-contained HTML page of a run: frames, video, latency bar, events, facts."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..files import write_atomic
from ..profiler import UNATTRIBUTED, StageRow
from ..types import ArmEvent, ImageArray
from .latency import PAPER_FLOP, PAPER_S, seconds, work
from .video import contact_sheet, png

PALETTE = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#f0e442", "#999999", "#332288", "#882255")
"""Okabe and Ito's colours, told apart by colour-blind readers, and two of Tol's."""
REST = "#c3cbd4"
"""Colour of what no stage accounts for."""
EVERY = 6
"""Every sixth frame is shown in the strip."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a page shows; ``warning`` goes into a banner, ``real`` is none where nothing was seen afterwards."""

    title: str
    instruction: str
    outcome: str
    warning: str | None
    facts: Mapping[str, str]
    imagined: ImageArray
    real: ImageArray | None
    video: Path
    rows: Sequence[StageRow]
    cold_start_s: float
    verdict: str
    events: Sequence[ArmEvent]
    result: Mapping[str, Any]


def write_report(path: Path, report: Report) -> None:
    """Write the page to ``path``; raises `RecordingError` where it cannot be written."""
    body = "\n".join(
        [
            f"<h1>{escape(report.title)}</h1>",
            f'<p class="instruction">“{escape(report.instruction)}”</p>',
            f'<p class="outcome">{escape(report.outcome)}</p>',
            f'<p class="warning">{escape(report.warning)}</p>' if report.warning else "",
            "<h2>Imagined and real</h2>",
            _video(report.video),
            _strip(report),
            "<h2>Where the time went</h2>",
            _bar(report.rows),
            _stages(report),
            "<h2>Events</h2>" if report.events else "",
            _events(report.events),
            "<h2>Facts</h2>",
            _facts(report.facts),
            "<details><summary>The run as JSON</summary>"
            f"<pre>{escape(json.dumps(report.result, indent=1))}</pre></details>",
        ]
    )
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{_HEAD}<title>{escape(report.title)}</title>'
    write_atomic(path, f"{page}</head><body><main>{body}</main></body></html>\n".encode())


def _embedded(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _video(path: Path) -> str:
    if path.suffix == ".gif":
        return f'<img class="wide" alt="imagined beside real" src="{_embedded(path.read_bytes(), "image/gif")}">'
    source = _embedded(path.read_bytes(), "video/mp4")
    return f'<video class="wide" src="{source}" autoplay loop muted playsinline controls></video>'


def _strip(report: Report) -> str:
    rows = [report.imagined] if report.real is None else [report.imagined, report.real]
    sheet = _embedded(png(contact_sheet(rows, EVERY)), "image/png")
    caption = f"Every {EVERY}th frame: imagined" + ("" if report.real is None else ", and real under it")
    return f'<figure><img class="wide" alt="{caption}" src="{sheet}"><figcaption>{caption}.</figcaption></figure>'


def _bar(rows: Sequence[StageRow]) -> str:
    parts, at = [], 0.0
    for row, colour in zip(rows, _colours(rows), strict=True):
        width = max(row.share, 0.0) * 1000
        label = f"{escape(row.name)}: {seconds(row.total_s)}, {row.share:.1%}"
        parts.append(
            f'<rect x="{at:.2f}" y="0" width="{width:.2f}" height="40" fill="{colour}"><title>{label}</title></rect>'
        )
        if width > 9 * len(row.name) + 16:
            parts.append(f'<text x="{at + 8:.2f}" y="26">{escape(row.name)}</text>')
        at += width
    return (
        f'<svg class="wide" viewBox="0 0 1000 40" role="img" aria-label="share of every stage">{"".join(parts)}</svg>'
    )


def _colours(rows: Sequence[StageRow]) -> list[str]:
    return [REST if row.name == UNATTRIBUTED else PALETTE[k % len(PALETTE)] for k, row in enumerate(rows)]


def _stages(report: Report) -> str:
    lines = [
        f'<tr><td><i style="background:{colour}"></i>{escape(row.name)}</td>'
        f"<td>{'' if row.name == UNATTRIBUTED else row.calls}</td>"
        f"<td>{seconds(row.mean_s)}</td><td>{seconds(row.total_s)}</td><td>{row.share:.1%}</td><td>{work(row.flop)}</td></tr>"
        for row, colour in zip(report.rows, _colours(report.rows), strict=True)
    ]
    wall = sum(row.total_s for row in report.rows)
    flop = sum(row.flop for row in report.rows)
    return (
        '<div class="scroll"><table><thead><tr><th>stage</th><th>calls</th><th>mean</th><th>total</th><th>share</th>'
        f"<th>work</th></tr></thead><tbody>{''.join(lines)}</tbody><tfoot>"
        f"<tr><td>sum = wall time</td><td></td><td></td><td>{seconds(wall)}</td><td>100.0%</td><td>{work(flop)}</td></tr>"
        f"<tr><td>cold start, apart</td><td></td><td></td><td>{seconds(report.cold_start_s)}</td><td></td><td></td></tr>"
        f"<tr><td>paper, one plan</td><td></td><td>{PAPER_S} s</td><td></td><td></td><td>{work(PAPER_FLOP)}</td></tr>"
        f"</tfoot></table></div><p>Against the paper's {PAPER_S} s: {escape(report.verdict)}.</p>"
    )


def _events(events: Sequence[ArmEvent]) -> str:
    lines = (f"<li><code>{escape(e.log_code)}</code> {e.time_s:.2f} s: {escape(e.message)}</li>" for e in events)
    return f"<ul>{''.join(lines)}</ul>" if events else ""


def _facts(facts: Mapping[str, str]) -> str:
    lines = (f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f"<dl>{''.join(lines)}</dl>"


_HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5b6775; --line: #d8dee6; --paper: #fff; --warn: #fff3d6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf1; --soft: #9aa7b5; --line: #333d49; --paper: #14191f; --warn: #4a3a12; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { margin: 0; font-size: 1.5rem; } h2 { margin: 2rem 0 .6rem; font-size: 1.1rem; }
.instruction { margin: .2rem 0 .6rem; color: var(--soft); font-size: 1.15rem; }
.outcome { margin: 0; font-weight: 600; }
.warning { margin: .8rem 0 0; padding: .6rem .9rem; border-radius: .4rem; background: var(--warn); }
.wide { display: block; width: 100%; height: auto; border-radius: .3rem; image-rendering: pixelated; }
video.wide { image-rendering: auto; } figure { margin: 1rem 0 0; } figcaption { color: var(--soft); font-size: .9rem; }
svg text { font: 600 15px system-ui, sans-serif; fill: #fff; stroke: #0006; stroke-width: 2px; paint-order: stroke; }
.scroll { overflow-x: auto; } table { width: 100%; margin-top: .6rem; border-collapse: collapse; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tfoot td { color: var(--soft); border: 0; }
td i { display: inline-block; width: .7rem; height: .7rem; margin-right: .5rem; border-radius: .15rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; } dt { color: var(--soft); } dd { margin: 0; }
pre { overflow-x: auto; padding: .8rem; background: #8881; } summary { margin-top: 2rem; cursor: pointer; }
</style>"""
