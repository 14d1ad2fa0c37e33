"""Every stage, the plan end to end, and what the runtime itself costs."""

import time

import numpy as np
import pytest

from dvgwm.runtime import stages
from dvgwm.runtime.denoise import Context
from dvgwm.runtime.pipeline import silent
from dvgwm.runtime.profiler import Profiler

STAGES = ("encode_text", "encode_low", "encode_high", "preview", "bridge", "refine", "decode", "act")


@pytest.fixture
def one_plan(pipeline, observation, instruction):
    def run(profiler: Profiler | None = None) -> None:
        plan = pipeline.imagine([observation], instruction, 0, profiler)
        pipeline.act(plan, [observation], instruction, profiler)

    return run


@pytest.fixture(scope="module")
def tensors(pipeline, observation, instruction):
    """What every stage reads, from one run of all of them."""
    made = {"image": observation.images["scene"], "instruction": instruction}
    for stage in pipeline.stages:
        made |= {"plan": made["frames"]} if stage.spec.kind == "act" else {}
        made |= stage.run(made, Context(0, Profiler(), silent))
    return made


@pytest.mark.parametrize("name", STAGES)
def test_stage(benchmark, record, pipeline, tensors, name):
    stage = next(stage for stage in pipeline.stages if stage.spec.name == name)
    benchmark.pedantic(lambda: stage.run(tensors, Context(0, Profiler(), silent)), rounds=5, warmup_rounds=1)
    record(f"stage {name}", median_s=benchmark.stats["median"], max_s=benchmark.stats["max"])


def test_plan(benchmark, record, one_plan):
    benchmark.pedantic(one_plan, rounds=5, warmup_rounds=1)
    record("plan", median_s=benchmark.stats["median"], max_s=benchmark.stats["max"])
    assert benchmark.stats["median"] <= 4.0


def test_overhead(benchmark, record, one_plan):
    """Time of a plan outside engines and kernels: at most 5 % of it, noise drawn on the host included."""
    profilers: list[Profiler] = []

    def run() -> None:
        profilers.append(Profiler())
        with profilers[-1].span("plan"):
            one_plan(profilers[-1])

    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    shares = []
    for profiler in profilers[1:]:
        wall = next(span.duration_s for span in profiler.spans if span.name == "plan")
        inside = sum(span.duration_s for span in profiler.spans if ": " in span.name)
        shares.append((wall - inside) / wall)
    record("overhead", share=float(np.median(shares)))
    benchmark.extra_info |= {"share": float(np.median(shares))}
    assert np.median(shares) <= 0.05


def test_finiteness(benchmark, record, one_plan, monkeypatch):
    """Time of a plan in which outputs are looked at: at most 0.5 % of it; the mean that decoders give is theirs."""
    spent: list[float] = []
    check = stages.check_finite

    def timed(*arguments) -> None:
        started = time.perf_counter()
        check(*arguments)
        spent.append(time.perf_counter() - started)

    monkeypatch.setattr(stages, "check_finite", timed)
    benchmark.pedantic(one_plan, setup=spent.clear, rounds=5, warmup_rounds=1)
    share = sum(spent) / benchmark.stats["median"]
    record("finiteness", share=share)
    benchmark.extra_info |= {"share": share}
    assert share <= 0.005
