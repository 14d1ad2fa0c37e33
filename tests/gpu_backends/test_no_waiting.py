"""Inside a stage nothing goes to the host or waits for it, a plan through: the device's calls, in their order."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from gpu_doubles import HostDevice

from dvgwm.runtime.backends.onnx_cuda import engine as onnx_cuda
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config.plugins import shipped
from dvgwm.runtime.denoise import Context, paced
from dvgwm.runtime.pipeline import Overrides, Pipeline
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.types import Observation

pytestmark = pytest.mark.ort


class Noted(HostDevice):
    """A device with notes of copies to or from the host, waits, and steps."""

    def __init__(self):
        super().__init__()
        self.log = []

    def write(self, address, array):
        self.log.append(("write", array.nbytes))
        super().write(address, array)

    def read(self, array, address):
        self.log.append(("read", array.nbytes))
        super().read(array, address)

    def affine_step(self, *arguments):
        self.log.append(("step",))
        super().affine_step(*arguments)

    def wait(self, mark):
        self.log.append(("wait", mark))
        super().wait(mark)

    def synchronize(self):
        self.log.append(("synchronize",))


@pytest.fixture(scope="module")
def plan():
    """The device's calls in one plan, with the progress, and the plan's profile."""
    bundle, device = read_bundle(shipped("a1_tiny")), Noted()
    backend = onnx_cuda.backend_of(device, "cpu", "CPUExecutionProvider")
    backend.finite = lambda tensor: True  # it reads, at the end of a stage
    contract, profiler = bundle.manifest.input, Profiler()
    image = np.random.default_rng(5).integers(0, 256, (contract.height_px, contract.width_px, 3), np.uint8)
    seen = [Observation({contract.camera: image}, np.zeros(7), 0.0)]

    def progress(stage, done, total):
        device.log.append(("progress", stage, done, total))

    with Pipeline(bundle, backend, overrides=Overrides(preview_steps=5)) as pipeline:
        pipeline.warmup()
        device.log.clear()
        made = pipeline.imagine(seen, "put the banana into the bowl", 1, profiler, progress)
        imagined = list(device.log)
        device.log.clear()
        pipeline.act(made, seen, made.instruction, profiler, progress)
    return imagined, list(device.log), profiler


def between(log, first, last):
    """Return the entries between two, both left out."""
    return log[log.index(first) + 1 : log.index(last)]


def kinds(log):
    return {entry[0] for entry in log}


def told(log, stage):
    """Return the first and the last progress of a stage's pieces of work."""
    own = [entry for entry in log if entry[:2] == ("progress", stage) and entry[3]]
    assert [entry[2] for entry in own] == list(range(1, own[0][3] + 1))
    return own[0], own[-1]


@pytest.mark.parametrize("stage", ["preview", "refine"])
def test_a_denoiser_steps_without_the_host(plan, stage):
    imagined, _, _ = plan
    assert kinds(between(imagined, *told(imagined, stage))) == {"step", "wait", "progress"}


def test_the_policy_steps_without_the_host_and_its_features_never_leave_the_device(plan):
    _, acted, _ = plan
    first, last = told(acted, "act")
    assert kinds(between(acted, first, last)) == {"step", "wait", "progress"}
    assert "read" not in kinds(acted[: acted.index(last)])


def test_latents_go_from_stage_to_stage_on_the_device(plan):
    imagined, _, _ = plan
    _, last = told(imagined, "decode")
    embedded = imagined.index(("synchronize",))  # the first stage's: an instruction's embedding is kept for other plans
    assert "read" not in kinds(imagined[embedded : imagined.index(last)])


def test_times_are_one_upload(plan):
    imagined, _, _ = plan
    begun, (first, _) = ("progress", "preview", 0, 0), told(imagined, "preview")
    writes = [entry for entry in between(imagined, begun, first) if entry[0] == "write"]
    assert len(writes) == 2, "the noise and the times of five steps"


def test_a_stage_waits_for_the_device_at_its_end_alone(plan):
    imagined, acted, profiler = plan
    stages = {span.name for span in profiler.spans if span.depth == 0}
    assert [entry[0] for entry in imagined + acted].count("synchronize") == len(stages)


def test_every_part_of_a_stage_is_timed_on_the_device(plan):
    _, _, profiler = plan
    assert all(span.device_s is not None and span.device_s >= 0 for span in profiler.spans)
    preview = next(span for span in profiler.spans if span.name == "preview")
    parts = [span for span in profiler.spans if span.name.startswith("preview: ")]
    assert len(parts) == 10
    assert sum(span.device_s for span in parts) <= preview.device_s
    assert all(preview.device_start_s <= span.device_start_s for span in parts)


class Lagging:
    """A device with nothing done before a wait."""

    def __init__(self):
        self.given, self.done, self.ahead = 0, 0, []

    def mark(self):
        self.given += 1
        return self.given

    def wait(self, mark):
        self.done = max(self.done, mark)


@pytest.mark.parametrize("pieces", [0, 1, 2, 7])
def test_the_host_is_one_piece_ahead_of_the_device_and_no_more(pieces):
    device, done = Lagging(), []
    context = Context(0, Profiler(), lambda *progress: done.append(progress))
    for piece in paced("decode", range(pieces), device, context):
        assert device.given == piece
        device.ahead.append(device.given - device.done)
    assert device.ahead == [0, 1, 1, 1, 1, 1, 1][:pieces]
    assert done == [("decode", count, pieces) for count in range(1, pieces + 1)]
