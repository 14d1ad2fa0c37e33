"""The results of a run: a directory written whole or not at all, a table, and one JSON line."""

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..denoise import Progress as OnProgress
from ..errors import printable
from ..files import check_writable, numbered_directory, whole_directory, write_atomic, write_json
from ..pipeline import Pipeline
from ..profiler import Profiler, peak_memory_bytes
from .joints import joints_csv
from .latency import against_paper, is_paper_work, latency_table
from .report import Finished, write_report
from .video import encode_gif, side_by_side, write_video

RUN_FILE = "run.json"
RUNS = Path("runs")
UNTRAINED = "The weights are untrained (seeded random): the imagined video is noise and the actions mean nothing."


@contextmanager
def outputs(out: Path | None, gif: Path | None) -> Iterator[tuple[Path, Path]]:
    """Give a directory to write to and its future name: ``out``, or the next number under runs/.

    It gets the name only if all goes well. Raises as `files.whole_directory`, and before anything is made
    `RecordingError` if ``gif`` cannot be written.
    """
    if gif is not None:
        check_writable(gif)
    if out is None:
        with numbered_directory(RUNS) as places:
            yield places
    else:
        with whole_directory(out, RUN_FILE, "run") as directory:
            yield directory, out


@contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Give a callback; it shows a bar for every stage at work on standard error."""
    columns = (TextColumn("{task.description:>12}"), BarColumn(28), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars: dict[str, Any] = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            for other, bar in bars.items():
                task = progress.tasks[bar]
                if other != stage and not task.finished:  # another stage runs: this one is done
                    progress.update(bar, total=task.total or 1, completed=task.total or 1)
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total or None)
            elif done == 0:
                progress.reset(bars[stage], total=total or None)
            else:
                progress.update(bars[stage], completed=done, total=total)

        yield on_progress


@dataclass(frozen=True, slots=True)
class Published:
    """A run with its directory written, and the facts still to be shown."""

    done: Finished
    result: Mapping[str, Any]
    table: Table
    warning: str | None
    fps: float

    def show(self, gif: Path | None) -> dict[str, Any]:
        """Write the video to ``gif`` if given, print the table, and return the facts; the run itself is safe already."""
        if gif is not None:
            shown = np.stack(list(side_by_side(self.done.imagined, self.done.seen, self.done.labels)))
            write_atomic(gif, encode_gif(shown, self.fps))
        console = Console()
        if self.warning:
            console.print(self.warning, style="yellow", highlight=False, markup=False)
        console.print(self.table)
        lines = [f"{self.done.outcome}: “{self.result['instruction']}”"]
        for log_code in dict.fromkeys(event.log_code for event in self.done.events):
            same = [event for event in self.done.events if event.log_code == log_code]
            lines.append(f"  {log_code} x {len(same)}: {same[0].message}")
        lines += [
            f"{what.removesuffix('_csv'):7} {self.result[what]}"
            for what in ("video", "report", "actions_csv")
            if what in self.result
        ]
        for line in lines:
            console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
        return dict(self.result)


def publish(directory: Path, shown_as: Path, pipeline: Pipeline, done: Finished) -> Published:
    """Write video, profile, trace, report and facts into ``directory``; ``shown_as`` is its future name."""
    manifest, rows = pipeline.manifest, done.profiler.summary(done.wall_s)
    plan_s, plan_flop = plan_cost(done.profiler, len(done.plans))
    stages = [stage.spec for stage in pipeline.stages]
    verdict = against_paper(plan_s, plan_flop, is_paper_work(manifest, stages, len(done.plans[-1].frames)))
    fps = manifest.input.fps / done.every
    video = write_video(directory / "plan", side_by_side(done.imagined, done.seen, done.labels), fps)
    result = {
        **done.result,
        "instruction": done.plans[0].instruction,
        "preset": manifest.model.preset,
        "trained": manifest.model.trained,
        "backend": pipeline.backend.name,
        "precision": manifest.precision,
        "plans": len(done.plans),
        "plan_s": plan_s,
        "plan_flop": plan_flop,
        "cold_start_s": done.cold_start_s,
        "wall_s": done.wall_s,
        "peak_memory_bytes": peak_memory_bytes(),
        "stages_s": {row.name: row.total_s for row in rows},
        "paper": verdict,
        "unfamiliar": [asdict(each) for each in done.unfamiliar],
        "video": str(shown_as / video.name),
        "report": str(shown_as / "report.html"),
    }
    if done.planned is not None:
        result["actions_csv"] = str(shown_as / "actions.csv")
        write_atomic(directory / "actions.csv", done.planned.csv())
        write_json(directory / "actions.json", done.planned.json())
    warning = None if manifest.model.trained else UNTRAINED
    strange = [f"Unfamiliar {each.what}: {each.message}." for each in done.unfamiliar]
    if done.motion is not None:
        write_atomic(directory / "motion.csv", joints_csv(done.motion))
    write_json(directory / "profile.json", {"rows": [asdict(row) for row in rows], "spans": done.profiler.to_json()})
    write_json(directory / "trace.json", done.profiler.chrome_trace())
    write_report(
        directory / "report.html",
        done,
        warning=" ".join([*([warning] if warning else []), *strange]) or None,
        facts={**done.facts, **_shortened(done), **engine_facts(pipeline)},
        video=video,
        rows=rows,
        verdict=verdict,
        result=result,
    )
    write_json(directory / RUN_FILE, result)
    table = latency_table(rows, done.cold_start_s, len(done.plans), verdict)
    return Published(done, result, table, warning, fps)


def _shortened(done: Finished) -> dict[str, str]:
    """Return a note on a video without some of its frames."""
    return {} if done.every == 1 else {"video": f"one frame of {done.every}: the run was too long to remember all"}


def plan_cost(profiler: Profiler, plans: int) -> tuple[float, float]:
    """Return mean seconds and FLOP of a plan: every stage of the pipeline, observation and motion left out."""
    stages = [row for row in profiler.summary(0.0) if row.name not in ("observe", "motion", "unattributed")]
    return sum(row.total_s for row in stages) / plans, sum(row.flop for row in stages) / plans


def engine_facts(pipeline: Pipeline) -> dict[str, str]:
    """Return the report's facts of bundle and machine."""
    manifest = pipeline.manifest
    samplers = (
        f"{stage.spec.name} {stage.spec.sampler.kind} x {stage.spec.sampler.steps}, guidance {stage.spec.sampler.guidance:g}"
        for stage in pipeline.stages
        if stage.spec.sampler is not None
    )
    return {
        "bundle": f"{pipeline.bundle.path} ({manifest.model.preset}: {manifest.model.weights})",
        "backend": f"{pipeline.backend.name}, {manifest.precision}",
        "samplers": "; ".join(samplers),
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}, Python {platform.python_version()}",
    }
