"""How long a bundle's stages take here."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dvgwm.runtime.backends.backend import Backend
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.types import Observation

from .products import Report


def benchmark(
    bundle: Bundle, backend: Backend, compiled: Mapping[str, Path], report: Report, rounds: int = 3
) -> dict[str, float]:
    """Return the median seconds of every stage and of a whole plan, over a few plans of a grey image."""
    contract = bundle.manifest.input
    image = np.full((contract.height_px, contract.width_px, 3), 127, np.uint8)
    observations = [Observation({contract.camera: image}, np.zeros(len(bundle.manifest.action.names)), 0.0)]
    times: dict[str, list[float]] = {}
    with Pipeline(bundle, backend, compiled=compiled) as pipeline:
        pipeline.warmup()
        for index in range(rounds):
            report("benchmark", f"plan {index + 1} of {rounds}", index, rounds)
            profiler, started = Profiler(), time.perf_counter()
            plan = pipeline.imagine(observations, "put the banana into the bowl", index, profiler)
            pipeline.act(plan, observations, plan.instruction, profiler)
            for span in profiler.spans:
                if span.depth == 0:
                    times.setdefault(span.name, []).append(span.duration_s)
            times.setdefault("plan", []).append(time.perf_counter() - started)
    report("benchmark", "", rounds, rounds)
    return {name: float(np.median(values)) for name, values in times.items()}
