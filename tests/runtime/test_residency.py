"""The engines in memory: the order of giving up, the peaks said beforehand, and those measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from dvgwm.runtime import entries
from dvgwm.runtime.backends.backend import Footprint
from dvgwm.runtime.backends.facts import MemoryUse
from dvgwm.runtime.backends.onnx import open_backend
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config.plugins import backend_facts, memory_use, shipped
from dvgwm.runtime.errors import ConfigError, EngineMemoryError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.residency import plan_residency
from dvgwm.runtime.types import Observation

pytestmark = pytest.mark.ort
PLAIN = MemoryUse(0.0, 0.0, copies=0, latents=0, fused=True, casts=False)
WEIGHTS_GB = {
    "text_encoder": 9.5, "encode_low": 0.1, "encode_high": 0.1, "preview": 11, "refine": 3, "decode_first": 0.2,
    "decode_next": 0.2, "frame_encoder": 0.1, "policy": 1,
}  # fmt: skip
WORKING_GB = {"decode_next": 12.0, "decode_first": 10.0, "preview": 1.0, "refine": 2.0}


def sized(manifest, weights_gb=WEIGHTS_GB, working_gb=WORKING_GB):
    """Return the manifest with engines of these sizes; attention's scores are ten times the working memory."""

    def with_size(spec):
        name = spec.file.split(".")[0]
        working = round(working_gb.get(name, 0.01) * 1e9)
        return replace(spec, footprint=Footprint(round(weights_gb[name] * 1e9), 10**9, working, 10 * working))

    stages = (
        replace(stage, engines={role: with_size(spec) for role, spec in stage.engines.items()})
        for stage in manifest.pipeline
    )
    return replace(manifest, pipeline=tuple(stages))


@pytest.fixture(scope="module")
def manifest():
    return sized(read_bundle(shipped("a1_tiny")).manifest)


def peaks_gb(residency):
    return {need.stage: round(need.peak_bytes / 1e9, 2) for need in residency.stages}


def test_everything_stays_where_it_fits(manifest):
    residency = plan_residency(manifest, 40e9, PLAIN)
    assert residency.evicted == ()
    weights = sum(WEIGHTS_GB.values())
    assert peaks_gb(residency)["decode"] == pytest.approx(weights + 12), "the larger of two decoders works at a time"
    assert peaks_gb(residency)["preview"] == pytest.approx(weights + 1)
    assert peaks_gb(residency)["bridge"] == pytest.approx(weights)
    assert residency.peak.stage == "decode"


def test_the_text_encoder_goes_first_then_the_largest_that_the_peak_does_not_use(manifest):
    residency = plan_residency(manifest, 30e9, PLAIN)
    assert residency.evicted == ("text_encoder.onnx",)
    assert peaks_gb(residency)["encode_text"] == pytest.approx(25.21), "it is there for its own stage"
    assert [need.loaded for need in residency.stages if need.loaded] == [("text_encoder.onnx",)]
    residency = plan_residency(manifest, 24e9, PLAIN)
    assert residency.evicted == ("text_encoder.onnx", "preview.onnx")
    assert peaks_gb(residency)["decode"] == pytest.approx(16.7)
    assert peaks_gb(residency)["preview"] == pytest.approx(16.7)


def test_what_another_stage_wants_goes_too_and_no_more(manifest):
    """The decode is at the peak first, and then the preview's stage: each has the other's engines put out of its way."""
    large = sized(manifest, working_gb={**WORKING_GB, "preview": 15.0, "decode_next": 22.0})
    residency = plan_residency(large, 27e9, PLAIN)
    assert residency.evicted == ("text_encoder.onnx", "preview.onnx", "refine.onnx", "policy.onnx")
    assert peaks_gb(residency) == {
        "encode_text": 10.21, "encode_low": 0.71, "encode_high": 0.71, "preview": 26.7, "bridge": 0.7, "refine": 5.7,
        "decode": 22.7, "act": 1.71,
    }  # fmt: skip


def test_an_engine_at_work_stays(manifest):
    """The preview is the largest left, and its own stage is at the peak."""
    residency = plan_residency(sized(manifest, working_gb={"preview": 15.0}), 30e9, PLAIN)
    assert residency.evicted == ("text_encoder.onnx", "refine.onnx")


def test_latents_are_held_where_they_are_worked_on(manifest):
    held = replace(PLAIN, latents=3)
    state = next(spec for spec in manifest.stage("refine").engines["denoise"].inputs if spec.name == "state")
    need = plan_residency(manifest, 1e15, held).stages[4]
    assert need.stage == "bridge"
    assert need.peak_bytes - plan_residency(manifest, 1e15, PLAIN).stages[4].peak_bytes == 3 * 4 * np.prod(state.shape)


def test_a_library_says_what_it_keeps(manifest):
    base, session = 5e9, 1e6
    kept = MemoryUse(base, session, copies=2, latents=0, fused=False, casts=True)
    weights, working = sum(WEIGHTS_GB.values()) * 1e9, sum(WORKING_GB.values()) * 1e9 + 5 * 0.01e9
    expected = base + weights + 9 * (session + 1e9) + 2 * 10 * working
    assert plan_residency(manifest, 1e15, kept).peak.peak_bytes == pytest.approx(expected)


def test_what_does_not_fit_is_refused_with_the_smallest_change_that_would(manifest):
    with pytest.raises(
        EngineMemoryError, match=r"12.4 GB in stage decode.* --precision float16 it would take about 7.4 GB"
    ):
        plan_residency(manifest, 8e9, PLAIN)
    half = replace(manifest, precision="float16")
    with pytest.raises(EngineMemoryError, match=r"take a smaller preset or 12.4 GB \(16 GB are enough\)"):
        plan_residency(half, 8e9, PLAIN)
    heavy = replace(sized(manifest, {**WEIGHTS_GB, "refine": 14}, {}), precision="float16")
    with pytest.raises(EngineMemoryError, match="--precision int8_weights it would take about"):
        plan_residency(heavy, 10e9, PLAIN)
    assert EngineMemoryError("X", "y").exit_code == 30


def test_weights_of_a_stage_that_does_not_fit_alone_are_streamed(manifest):
    """A streaming library streams the weights of the stage at the peak, and of no other one."""
    streaming = replace(PLAIN, streamed=0.1)
    residency = plan_residency(sized(manifest, working_gb={}), 8e9, streaming)
    assert (residency.streamed, residency.evicted) == (("preview.onnx", "text_encoder.onnx"), ())
    assert residency.peak.peak_bytes == pytest.approx((25.2 - 0.9 * (11 + 9.5) + 0.01) * 1e9)
    residency = plan_residency(sized(manifest, working_gb={}), 5e9, streaming)
    assert residency.streamed == ("preview.onnx", "text_encoder.onnx")
    assert residency.evicted == ("refine.onnx", "text_encoder.onnx", "preview.onnx")
    assert plan_residency(sized(manifest, working_gb={}), 12e9, streaming).streamed == ()
    with pytest.raises(EngineMemoryError, match=r"12.0 GB in stage decode"):
        plan_residency(manifest, 8e9, streaming)


def test_a_bundle_of_before_says_that_it_does_not_know(manifest):
    stages = (
        replace(stage, engines={role: replace(spec, footprint=None) for role, spec in stage.engines.items()})
        for stage in manifest.pipeline
    )
    with pytest.raises(ConfigError, match="rebuild the bundle"):
        plan_residency(replace(manifest, pipeline=tuple(stages)), 8e9, PLAIN)


def test_the_library_is_the_backends_or_the_bundles(manifest):
    of_host, of_gpu = backend_facts("onnx").memory, backend_facts("onnx_cuda").memory
    assert of_host != of_gpu
    assert [memory_use(manifest, name) for name in (None, "onnx", "onnx_cuda")] == [of_host, of_host, of_gpu]
    for backend in ("torch", "not_installed"):
        assert memory_use(replace(manifest, backend=backend)) == of_gpu
    streaming = [name for name in entries.names("backends") if backend_facts(name).memory.streamed]
    assert streaming == ["tensorrt"]


def test_an_evicted_engine_is_loaded_for_its_stage_and_gives_the_same_bits():
    bundle, loads, closes = read_bundle(shipped("a1_tiny")), [], []
    plain = open_backend(1)

    def load(path, spec):
        engine = plain.loader(path, spec)
        loads.append(spec.file)
        close = engine.close
        engine.close = lambda: (closes.append(spec.file), close())
        return engine

    contract = bundle.manifest.input
    image = np.full((contract.height_px, contract.width_px, 3), 99, np.uint8)
    seen = [Observation({"scene": image}, np.zeros(7), 0.0)]
    evicted = ("refine.onnx", "policy.onnx")
    with Pipeline(bundle, plain) as pipeline:
        plan = pipeline.imagine(seen, "push the cube", 3)
        expected = plan.frames, pipeline.act(plan, seen, "push the cube").actions
    with Pipeline(bundle, replace(plain, loader=load), evicted=evicted) as pipeline:
        assert not set(loads) & set(evicted)
        for turn in (1, 2):
            plan = pipeline.imagine(seen, "push the cube", 3)
            assert (loads.count("refine.onnx"), closes.count("refine.onnx")) == (turn, turn)
            actions = pipeline.act(plan, seen, "push the cube").actions
            assert (loads.count("policy.onnx"), closes.count("policy.onnx")) == (turn, turn)
            assert np.array_equal(plan.frames, expected[0])
            assert np.array_equal(actions, expected[1])
        assert loads.count("preview.onnx") == 1
        assert "preview.onnx" not in closes
    assert sorted(closes) == sorted(loads)


MEASURE = """
import json, sys
import numpy as np
from pathlib import Path
from dvgwm.runtime.backends.onnx import open_backend
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import Observation

def peak_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

class Measured(Pipeline):
    def _run(self, stages, tensors, context):
        for stage in stages:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            super()._run([stage], tensors, context)
            peaks[stage.spec.name] = max(peaks.get(stage.spec.name, 0), peak_bytes())

peaks = {}
bundle = read_bundle(Path(sys.argv[1]))
size = bundle.manifest.input.height_px, bundle.manifest.input.width_px
seen = [Observation({"scene": np.full((*size, 3), 99, np.uint8)}, np.zeros(7), 0.0)]
with Measured(bundle, open_backend(2), evicted=sys.argv[2:]) as pipeline:
    pipeline.warmup()
    for _ in range(4):
        plan = pipeline.imagine(seen, "put the banana into the bowl", 0)
        pipeline.act(plan, seen, plan.instruction)
print(json.dumps(peaks))
"""


@pytest.mark.few(1)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a peak from now on")
@pytest.mark.parametrize("given_mb", [400, 230, 190, 150])
def test_each_stage_takes_what_was_said_beforehand(given_mb):
    """The peak within a tenth, in four residencies, from all engines in memory to none.

    Of a stage far from it the C library may keep ten megabytes more, or less, from one run to the next.
    """
    bundle = read_bundle(shipped("a1_tiny"))
    residency = plan_residency(bundle.manifest, given_mb * 1e6, memory_use(bundle.manifest))
    command = [sys.executable, "-c", MEASURE, str(bundle.path), *residency.evicted]
    measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    off = {need.stage: need.peak_bytes / measured[need.stage] - 1 for need in residency.stages}
    told = {stage: f"{share:+.1%}" for stage, share in off.items()}
    assert abs(residency.peak.peak_bytes / max(measured.values()) - 1) <= 0.1, told
    assert max(map(abs, off.values())) <= 0.2, told
    assert (given_mb == 400) == (not residency.evicted)
