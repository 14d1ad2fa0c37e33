"""The parts of the proof by name; the timings and the memory."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from bench import Found, ProvenBundle
from comparison import arrays, engines, kernels, plan, planned
from lora import lora
from rows import append

from dvgwm.export.scenes import drawn
from dvgwm.runtime.backends.backend import Backend
from dvgwm.runtime.backends.compiling import CompilingBackend
from dvgwm.runtime.compiled import record_in
from dvgwm.runtime.config.plugins import memory_use
from dvgwm.runtime.display.latency import work
from dvgwm.runtime.engine_store import Record
from dvgwm.runtime.errors import DvgwmError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.residency import plan_residency

PAPER_S = 88.7


def compile_all(bench: ProvenBundle) -> Found:
    """Compile every engine; one found is not compiled again."""
    engines = bench.engines(bench.open(bench.backend))
    records = {file: record_in(bench.bundle, path) for file, path in engines.items()}
    seconds = {file: record.seconds if isinstance(record, Record) else 0.0 for file, record in records.items()}
    return {"seconds": seconds}, True, f"{len(records)} engines in {sum(seconds.values()):.0f} s"


def speed(bench: ProvenBundle) -> Found:
    """Time whole plans on every installed library: a stage's time ends when the GPU is idle."""
    facts: dict[str, Any] = {}
    for name in (bench.backend, "onnx_cuda", "onnx"):
        try:
            backend = bench.open(name)
        except DvgwmError as error:
            facts[name] = str(error)
            continue
        rounds = bench.rounds if name != "onnx" else min(bench.rounds, 2)
        facts[name] = _timed(bench, backend, rounds)
    fastest = facts[bench.backend]["plan_s"]
    told = f"a plan in {fastest:.3f} s with {bench.backend}"
    told += "".join(
        f", {facts[name]['plan_s']:.3f} s with {name}"
        for name in ("onnx_cuda", "onnx")
        if isinstance(facts[name], dict)
    )
    flop = facts[bench.backend]["flop"]
    facts["paper_s"] = PAPER_S
    return facts, True, f"{told} ({work(flop)}; the paper's takes {PAPER_S} s on its GPU, at its own work)"


def _timed(bench: ProvenBundle, backend: Backend, rounds: int) -> dict[str, Any]:
    stages: dict[str, list[float]] = {}
    began = time.perf_counter()
    with Pipeline(bench.bundle, backend, compiled=bench.engines(backend)) as pipeline:
        pipeline.warmup()
        ready_s = time.perf_counter() - began
        scene = drawn(pipeline.manifest, 1)
        flop = 0.0
        for index in range(rounds):
            profiler, began = Profiler(), time.perf_counter()
            imagined = pipeline.imagine([scene.observation], scene.instruction, index, profiler)
            pipeline.act(imagined, [scene.observation], scene.instruction, profiler)
            stages.setdefault("plan", []).append(time.perf_counter() - began)
            flop = sum(span.flop for span in profiler.spans)
            for span in profiler.spans:
                stages.setdefault(span.name, []).append(span.duration_s)
    medians = {name: float(np.median(times)) for name, times in stages.items()}
    return {"plan_s": medians.pop("plan"), "spans_s": medians, "ready_s": ready_s, "flop": flop, "rounds": rounds}


def memory(bench: ProvenBundle) -> Found:
    """Hold the GPU's memory in use against the count beforehand."""
    from cuda.bindings import driver

    backend = bench.open(bench.backend)
    engines, before = bench.engines(backend), driver.cuMemGetInfo()[1]
    with Pipeline(bench.bundle, backend, compiled=engines) as pipeline:
        pipeline.warmup()
        planned(pipeline, 1)
        used = before - driver.cuMemGetInfo()[1]
    library = memory_use(bench.bundle.manifest, bench.backend)
    counted = plan_residency(bench.bundle.manifest, 1e15, library).peak.peak_bytes - library.base_bytes
    off = used / counted - 1.0
    facts = {"used_bytes": int(used), "counted_bytes": counted, "off": off}
    return facts, abs(off) <= 0.1, f"{used / 1e6:.0f} MB in use, {counted / 1e6:.0f} MB counted ({off:+.0%})"


WORK: Mapping[str, Callable[[ProvenBundle], Found]] = {
    "compile": compile_all,
    "kernels": kernels,
    "arrays": arrays,
    "engines": engines,
    "plan": plan,
    "speed": speed,
    "lora": lora,
    "memory": memory,
}


def run(part: str, bench: ProvenBundle) -> None:
    """Do a part and append its row."""
    began = time.perf_counter()
    facts, fine, told = WORK[part](bench)
    row = {
        "part": part,
        "key": bench.key,
        "bundle": bench.bundle.manifest.name,
        "precision": bench.bundle.manifest.precision,
    }
    backend = bench.open(bench.backend)
    assert isinstance(backend, CompilingBackend)
    row |= {"machine": dict(backend.compiler.facts), "took_s": round(time.perf_counter() - began, 1)}
    append(bench.out, row | {"fine": fine, "told": told} | facts)
