"""Inputs of a stage's engines: times, noise, features, copies if memory is written to again."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from dvgwm.runtime.backends.host import HostBackend
from dvgwm.runtime.chunks import chunking
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.denoise import Context
from dvgwm.runtime.errors import OutputError
from dvgwm.runtime.noise import draw
from dvgwm.runtime.pipeline import Overrides, Pipeline
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.stages import decode

SEED = 7


@dataclass
class Seen:
    """An engine with copies of its inputs and outputs; its numbers are multiplied by ``factor``."""

    engine: object
    runs: list = field(default_factory=list)
    factor: float = 1.0

    @property
    def spec(self):
        return self.engine.spec

    def warmup(self, shapes):
        return self.engine.warmup(shapes)

    def run(self, tensors):
        given = {name: np.array(tensor) for name, tensor in tensors.items()}
        outputs = self.engine.run(tensors)
        if self.factor != 1.0:
            outputs = {name: tensor * np.float32(self.factor) for name, tensor in outputs.items()}
        self.runs.append((given, {name: np.array(tensor) for name, tensor in outputs.items()}))
        return outputs

    def close(self):
        self.engine.close()


class Watched(HostBackend):
    """The host; it keeps the steps' noise."""

    noises = ()

    def affine_step(self, step, state, velocity, history, noise):
        type(self).noises += (None if noise is None else np.array(noise),)
        super().affine_step(step, state, velocity, history, noise)


@pytest.fixture
def planned(make_bundle, observation):
    """Plan and act once, and return the pipeline, the plan and every engine's inputs."""

    def make(overrides=None, system="dvgwm"):
        fake, seen = open_backend("fake", None), {}

        def load(path, spec):
            before = seen[spec.file].runs if spec.file in seen else []
            seen[spec.file] = Seen(fake.load(path, spec), before)
            return seen[spec.file]

        Watched.noises = ()
        with Pipeline(make_bundle(system), Watched("fake", load), overrides=overrides) as pipeline:
            plan = pipeline.imagine([observation], "push the cube", SEED)
            pipeline.act(plan, [observation], "push the cube")
        return pipeline, plan, {file: engine.runs for file, engine in seen.items()}

    return make


def test_every_row_has_its_own_time(planned):
    pipeline, _, seen = planned()
    for stage in pipeline.stages:
        if stage.sampler is not None:
            times = [given["time"].tolist() for given, _ in seen[stage.spec.engines["denoise"].file]]
            assert times == [[np.float32(step.time)] for step in stage.sampler.steps]
            assert len({*map(tuple, times)}) == len(times) > 1


def test_every_row_has_the_modulation_of_its_time(planned):
    """Made once, when the stage is opened, with the rows of this run's overrides."""
    pipeline, _, seen = planned(Overrides(preview_steps=7), "modulated")
    made = seen["modulate.onnx"]
    preview = next(stage for stage in pipeline.stages if stage.spec.name == "preview")
    assert [given["time"].tolist() for given, _ in made] == [[np.float32(step.time)] for step in preview.sampler.steps]
    assert len(made) == 7
    assert len({outputs["modulation"].tobytes() for _, outputs in made}) == 7
    for (given, _), (_, outputs) in zip(seen["preview.onnx"], made, strict=True):
        np.testing.assert_array_equal(given["modulation"], outputs["modulation"])


def test_modulations_are_not_made_again(make_bundle, observation):
    """Neither by warming up nor by a second plan; a NaN in them is seen."""
    fake, runs, loads = open_backend("fake", None), [], []

    def load(path, spec):
        loads.append(spec.file)
        engine = fake.load(path, spec)
        return Seen(engine, runs) if spec.file == "modulate.onnx" else engine

    with Pipeline(make_bundle("modulated"), HostBackend("fake", load)) as pipeline:
        pipeline.warmup()
        first, second = (pipeline.imagine([observation], "push the cube", SEED).frames for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(runs) == 4
    assert loads.count("modulate.onnx") == 1
    with pytest.raises(OutputError, match="stage preview: modulation has numbers that are not finite"):
        Pipeline(
            make_bundle("modulated", "other"), HostBackend("fake", lambda p, s: Seen(fake.load(p, s), runs, np.nan))
        )


def test_every_row_that_wants_noise_has_that_of_its_number(planned):
    pipeline, _, _ = planned(Overrides(preview_sampler="dpmpp_2m_sde"))
    preview = next(stage for stage in pipeline.stages if stage.spec.name == "preview")
    shape = tuple(preview.spec.engines["denoise"].input("state").shape)
    assert sum(noise is not None for noise in Watched.noises) == 3
    for index, (step, noise) in enumerate(zip(preview.sampler.steps, Watched.noises, strict=False)):
        if step.d != 0.0:
            np.testing.assert_array_equal(noise, draw(SEED, "preview", index + 1, shape))
        else:
            assert noise is None


def test_the_start_of_the_refiner_is_kept_as_it_was(planned):
    _, plan, seen = planned()
    np.testing.assert_array_equal(plan.latents["hr_start"], seen["refine.onnx"][0][0]["state"])
    assert (plan.latents["hr_start"] != plan.latents["hr_latents"]).any()


def test_a_chunk_is_shown_the_features_of_its_own_frames(planned):
    pipeline, _, seen = planned()
    chunks = chunking(pipeline.stages[-1].spec)
    features = seen["frames.onnx"][0][1]["features"]
    shown = [np.concatenate([features[index] for index in row]) for row in chunks.shown_index]
    assert len(shown) > 1
    np.testing.assert_array_equal(seen["policy.onnx"][0][0]["features"], np.stack(shown * 3), "three samples")


class Reusing:
    """A decoder with one memory for all its outputs, run after run; the numbers are its runs'."""

    def __init__(self, spec, spoiled=0):
        self.spec, self.spoiled, self.count = spec, spoiled, 0
        self.frames = np.zeros((1, 8 if spec.carry else 1, 4, 4, 3), np.uint8)
        self.mean, self.cache = np.zeros(1, np.float32), np.zeros(2, np.float32)

    def run(self, tensors):
        self.count += 1
        self.frames[...] = self.count + 100 * (not self.spec.carry)
        self.mean[...] = np.nan if self.count == self.spoiled else 1.0
        return {"frames": self.frames, "frames_mean": self.mean, "cache_out": self.cache}


@pytest.fixture
def decoding(make_bundle):
    spec = next(stage for stage in make_bundle().manifest.pipeline if stage.kind == "decode")
    latents = np.zeros((1, 7, 4, 4, 6), np.float32)
    told = []
    context = Context(0, Profiler(), lambda *progress: told.append(progress))

    def run(spoiled=0):
        engines = {role: Reusing(engine, spoiled if engine.carry else 0) for role, engine in spec.engines.items()}
        stage = SimpleNamespace(
            spec=spec, engines=engines, backend=open_backend("fake", None), input=lambda tensors, name: latents
        )
        return decode(stage, {}, context)["frames"], told

    return run


def test_frames_outlive_the_next_chunk(decoding):
    frames, told = decoding()
    assert frames[:, 0, 0, 0].tolist() == [101, *[1] * 8, *[2] * 8, *[3] * 8]
    assert told == [("decode", count, 4) for count in (1, 2, 3, 4)]


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_mean_that_is_not_finite_outlives_the_next_chunk(decoding, chunk):
    with pytest.raises(OutputError, match="frames"):
        decoding(chunk)
