"""A number that is not finite stops a plan where it appears, and the stage is named: it is never played."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from dvgwm.runtime.backends.host import HostBackend, finite
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.errors import EngineLostError, EngineMemoryError, OutputError, ShapeError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import TensorSpec

STAGES = {
    "text.onnx": "encode_text",
    "encode_lr.onnx": "encode_lr",
    "encode_hr.onnx": "encode_hr",
    "preview.onnx": "preview",
    "refine.onnx": "refine",
    "decode_first.onnx": "decode",
    "decode_next.onnx": "decode",
    "frames.onnx": "act",
    "policy.onnx": "act",
    "act.onnx": "act",
}


@dataclass(frozen=True)
class Spoiled:
    """An engine one of whose runs is spoiled by ``spoil``, which takes and gives its outputs."""

    engine: object
    spoil: object

    @property
    def spec(self):
        return self.engine.spec

    def warmup(self, shapes):
        self.engine.warmup(shapes)

    def run(self, tensors):
        return self.spoil(dict(self.engine.run(tensors)))

    def close(self):
        self.engine.close()


def spoiled(file, spoil):
    fake = open_backend("fake", None)

    def load(path, spec):
        engine = fake.load(path, spec)
        return Spoiled(engine, spoil) if spec.file == file else engine

    return HostBackend("fake", load)


def one_number(value):
    """Put ``value`` into the middle of every float output."""

    def spoil(outputs):
        for array in outputs.values():
            if array.dtype.kind == "f":
                array.flat[array.size // 2] = value
        return outputs

    return spoil


def plan(bundle, backend, observation, cache=None):
    with Pipeline(bundle, backend, cache) as pipeline:
        made = pipeline.imagine([observation], "push the cube", 0)
        return pipeline.act(made, [observation], "push the cube")


def with_mean(bundle):
    """Return the bundle with decoders that give the mean of their frames, as exported ones do."""

    def changed(stage):
        engines = {
            role: replace(engine, outputs=(*engine.outputs, TensorSpec("frames_mean", (1,), "float32")))
            for role, engine in stage.engines.items()
        }
        return replace(stage, engines=engines) if stage.kind == "decode" else stage

    pipeline = tuple(map(changed, bundle.manifest.pipeline))
    return Bundle(bundle.path, replace(bundle.manifest, pipeline=pipeline))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("system", "file"), [("dvgwm", name) for name in STAGES if name != "act.onnx"] + [("dream4manip", "act.onnx")]
)
def test_one_number_that_is_not_finite_names_its_stage_and_keeps_nothing(
    make_bundle, observation, tmp_path, system, file, value
):
    bundle = with_mean(make_bundle(system))
    plan(bundle, open_backend("fake", None), observation)
    with pytest.raises(OutputError, match=f"stage {STAGES[file]}: ") as caught:
        plan(bundle, spoiled(file, one_number(value)), observation, tmp_path / "cache")
    assert caught.value.exit_code == 32
    assert file != "text.onnx" or not (tmp_path / "cache").exists(), "a spoiled prompt is kept for other runs"


@pytest.mark.parametrize("constants", [{"std": (1e-42,)}, {"mean": (3e38,), "std": (1e-3,)}])
def test_constants_that_overflow_name_their_stage(make_bundle, observation, constants):
    bundle = make_bundle()
    stages = tuple(
        replace(stage, constants=dict(stage.constants) | constants) if stage.name == "encode_lr" else stage
        for stage in bundle.manifest.pipeline
    )
    with pytest.raises(OutputError, match="stage encode_lr: "):
        plan(Bundle(bundle.path, replace(bundle.manifest, pipeline=stages)), open_backend("fake", None), observation)


@pytest.mark.parametrize(
    ("error", "kind", "exit_code"),
    [
        (RuntimeError("device-side assert"), EngineLostError, 31),
        (MemoryError(), EngineMemoryError, 30),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), EngineMemoryError, 30),
        (ValueError("no such node"), EngineLostError, 31),
        (ValueError("bad allocation"), EngineMemoryError, 30),
    ],
)
def test_an_engine_that_fails_is_named(make_bundle, observation, error, kind, exit_code):
    def fail(outputs: Mapping):
        raise error

    with pytest.raises(kind, match=r"preview\.onnx") as caught:
        plan(make_bundle(), spoiled("preview.onnx", fail), observation)
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize(
    "spoil", [lambda outputs: {}, lambda outputs: {name: array[..., :1] for name, array in outputs.items()}]
)
def test_outputs_that_the_spec_does_not_state_are_refused(make_bundle, observation, spoil):
    with pytest.raises(ShapeError, match=r"refine|velocity") as caught:
        plan(make_bundle(), spoiled("refine.onnx", spoil), observation)
    assert caught.value.exit_code == 32


def test_a_backend_that_fails_beside_its_engines_names_the_stage(make_bundle, observation):
    class Failing(HostBackend):
        def bridge(self, *_):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    backend = Failing("fake", open_backend("fake", None).loader)
    with pytest.raises(EngineLostError, match="stage bridge failed: CUDA error"):
        plan(make_bundle(), backend, observation)


def test_large_finite_numbers_are_finite():
    large = np.full((3, 1000), 3e38, np.float32)
    assert finite(large)
    assert finite(np.full(1000, 6e4, np.float16))
    assert finite(np.arange(5, dtype=np.uint8))
    large[1, 7] = np.nan
    assert not finite(large)
    assert not finite(np.array([np.inf, -np.inf], np.float16))
