"""What a run leaves behind: a directory written whole or not at all, a table, and one JSON line."""

import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..denoise import Progress as OnProgress
from ..errors import ConfigError, RecordingError
from ..files import write_atomic, write_json
from ..pipeline import Pipeline
from ..profiler import Profiler, peak_memory_bytes
from .latency import against_paper, is_paper_work, latency_table
from .report import Finished, write_report
from .video import encode_gif, side_by_side, write_video

RUN_FILE = "run.json"
UNTRAINED = "The weights are untrained (seeded random): the imagined video is noise and the actions mean nothing."


@contextmanager
def outputs(out: Path | None) -> Iterator[tuple[Path, Path]]:
    """Give a directory to write to and what it will be called: ``out``, or the next number under runs/.

    It gets that name only if all goes well.

    Raises `RecordingError` where it cannot be made, `ConfigError` where ``out`` holds something that is no run.
    """
    target = out or _next(Path("runs"))
    if target.exists() and not (target / RUN_FILE).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError("OUT_OCCUPIED", f"{target} exists and holds no run; name another directory with --out")
    staging = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    created = [folder for folder in (staging, *staging.parents) if not folder.exists()]
    try:
        _make(staging, target)
        yield staging, target
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    except BaseException:
        for folder in created[-1:]:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Give a callback that shows a bar for every stage on standard error while it works."""
    columns = (TextColumn("{task.description:>12}"), BarColumn(28), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars: dict[str, Any] = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total or None)
            elif done == 0:
                progress.reset(bars[stage], total=total or None)
            else:
                progress.update(bars[stage], completed=done, total=total)

        yield on_progress


def publish(
    directory: Path, shown_as: Path, pipeline: Pipeline, done: Finished, gif: Path | None = None
) -> dict[str, Any]:
    """Write video, profile, trace, report and facts into ``directory``, print the table, and return the facts.

    The video also goes to ``gif`` where that is given.
    """
    manifest, rows = pipeline.manifest, done.profiler.summary(done.wall_s)
    plan_s, plan_flop = plan_cost(done.profiler, len(done.plans))
    stages = [stage.spec for stage in pipeline.stages]
    verdict = against_paper(plan_s, plan_flop, is_paper_work(manifest, stages, len(done.plans[0].frames)))
    both = side_by_side(done.imagined, done.real)
    video = write_video(directory / "plan", both, manifest.input.fps)
    if gif is not None:
        write_atomic(gif, encode_gif(both, manifest.input.fps))
    result = {
        **done.result,
        "instruction": done.plans[0].instruction,
        "preset": manifest.model.preset,
        "trained": manifest.model.trained,
        "backend": manifest.backend,
        "precision": manifest.precision,
        "plans": len(done.plans),
        "plan_s": plan_s,
        "plan_flop": plan_flop,
        "cold_start_s": done.cold_start_s,
        "wall_s": done.wall_s,
        "peak_memory_bytes": peak_memory_bytes(),
        "stages_s": {row.name: row.total_s for row in rows},
        "paper": verdict,
        "video": str(shown_as / video.name),
        "report": str(shown_as / "report.html"),
    }
    warning = None if manifest.model.trained else UNTRAINED
    write_json(directory / "profile.json", {"rows": [asdict(row) for row in rows], "spans": done.profiler.to_json()})
    write_json(directory / "trace.json", done.profiler.chrome_trace())
    write_report(
        directory / "report.html",
        done,
        warning=warning,
        facts={**done.facts, **engine_facts(pipeline)},
        video=video,
        rows=rows,
        verdict=verdict,
        result=result,
    )
    write_json(directory / RUN_FILE, result)
    _print(done, result, latency_table(rows, done.cold_start_s, len(done.plans), verdict), warning)
    return result


def plan_cost(profiler: Profiler, plans: int) -> tuple[float, float]:
    """Return mean seconds and FLOP of a plan: every stage of the pipeline, observation and motion left out."""
    stages = [row for row in profiler.summary(0.0) if row.name not in ("observe", "motion", "unattributed")]
    return sum(row.total_s for row in stages) / plans, sum(row.flop for row in stages) / plans


def engine_facts(pipeline: Pipeline) -> dict[str, str]:
    """Return what a reader wants to know of bundle and machine."""
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


def _make(staging: Path, target: Path) -> None:
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise RecordingError("OUTPUT_WRITE", f"cannot write {target}: {error.strerror}; choose another --out") from None


def _print(done: Finished, result: Mapping[str, Any], table: Any, warning: str | None) -> None:
    console = Console()
    if warning:
        console.print(warning, style="yellow", highlight=False)
    console.print(table)
    console.print(f"{done.outcome}: “{result['instruction']}”", highlight=False, markup=False)
    for log_code in dict.fromkeys(event.log_code for event in done.events):
        same = [event for event in done.events if event.log_code == log_code]
        console.print(f"  {log_code} x {len(same)}: {same[0].message}", highlight=False, markup=False)
    console.print(f"video  {result['video']}\nreport {result['report']}", highlight=False, markup=False, soft_wrap=True)


def _next(parent: Path) -> Path:
    """Return the first number under ``parent`` that is not taken."""
    number = 1
    while (parent / f"{number:04d}").exists():
        number += 1
    return parent / f"{number:04d}"
