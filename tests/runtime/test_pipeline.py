"""The pipeline's two calls in both systems' shapes, through the fake backend."""

from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dvgwm.runtime.bundle.manifest import Rates
from dvgwm.runtime.chunks import chunking
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.errors import BundleIncompatibleError, CameraMismatchError, ConfigError, OutputError
from dvgwm.runtime.loop import EpisodeOptions, run_episode
from dvgwm.runtime.pipeline import Overrides, Pipeline
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.stages import unnormalise
from dvgwm.runtime.types import Observation


@pytest.fixture
def open_pipeline(make_bundle, tmp_path):
    opened = []

    def make(system="dvgwm", overrides=None):
        opened.append(
            Pipeline(make_bundle(system, f"bundle{len(opened)}"), open_backend("fake", None), None, overrides)
        )
        return opened[-1]

    yield make
    for pipeline in opened:
        pipeline.close()


class StillArm:
    """An arm that plays by letting its clock run."""

    def __init__(self, image):
        self.image, self.time_s, self.chunks, self.stopped = image, 0.0, [], False

    def observe(self):
        return Observation({"scene": self.image}, np.zeros(7), self.time_s)

    def play(self, chunk):
        self.chunks.append(chunk)
        self.time_s = float(chunk.times_s[-1])

    def events(self):
        return []

    def stop(self):
        self.stopped = True

    def close(self):
        pass


def options(**changes):
    return replace(EpisodeOptions("push the cube", 3, 48, 16), **changes)


def test_same_seed_same_plan_bit_for_bit_other_seed_another(open_pipeline, observation):
    pipeline = open_pipeline()
    once, again = (pipeline.imagine([observation], "push the cube", 5) for _ in range(2))
    other = pipeline.imagine([observation], "push the cube", 6)
    assert np.array_equal(once.frames, again.frames)
    assert all(np.array_equal(once.latents[name], again.latents[name]) for name in once.latents)
    assert not np.array_equal(once.latents["lr_latents"], other.latents["lr_latents"])
    reopened = open_pipeline().imagine([observation], "push the cube", 5)
    assert np.array_equal(once.latents["hr_latents"], reopened.latents["hr_latents"])


def test_a_plan_depends_on_image_and_instruction(open_pipeline, observation):
    pipeline = open_pipeline()
    plan = pipeline.imagine([observation], "push the cube", 5)
    dark = replace(observation, images={"scene": np.zeros((32, 48, 3), np.uint8)})
    for other in (pipeline.imagine([dark], "push the cube", 5), pipeline.imagine([observation], "stack it", 5)):
        assert not np.array_equal(plan.latents["lr_latents"], other.latents["lr_latents"])


def test_dvgwm_acts_once_per_plan(open_pipeline, observation):
    pipeline, arm, calls = open_pipeline(), StillArm(observation.images["scene"]), []
    seen = options(max_actions=16)
    imagine, act = pipeline.imagine, pipeline.act
    pipeline.imagine = lambda *a, **k: calls.append("imagine") or imagine(*a, **k)
    pipeline.act = lambda *a, **k: calls.append("act") or act(*a, **k)
    episode = run_episode(arm, pipeline, seen, Profiler())
    assert calls == ["imagine", "act"] * 2
    assert [len(chunk.actions) for chunk in arm.chunks] == [8, 8]
    assert np.allclose(np.concatenate([chunk.times_s for chunk in arm.chunks]), 0.1 * np.arange(1, 17))
    assert episode.plans[0][1].frames.shape == (9, 32, 48, 3)
    assert np.allclose(episode.plans[0][1].times_s, 0.1 * np.arange(9))
    assert not np.array_equal(*(plan.latents["lr_latents"] for _, plan in episode.plans))


def test_execute_replans_earlier(open_pipeline, observation):
    arm = StillArm(observation.images["scene"])
    episode = run_episode(arm, open_pipeline(), options(execute=3, max_actions=7), Profiler())
    assert [len(chunk.actions) for chunk in arm.chunks] == [3, 3, 1]
    assert len(episode.plans) == 3


@pytest.mark.parametrize(("asked", "lengths"), [(None, [3, 3, 3]), (8, [8, 1]), (20, [8, 1]), (2, [2, 2, 2, 2, 1])])
def test_a_bundle_says_how_often_to_plan_and_who_runs_it_may_say_otherwise(open_pipeline, observation, asked, lengths):
    pipeline, arm = open_pipeline(), StillArm(observation.images["scene"])
    pipeline.bundle = replace(pipeline.bundle, manifest=replace(pipeline.manifest, rates=Rates(3, 8, 1)))
    arm.scene = SimpleNamespace(instruction="push the cube")
    settings = SimpleNamespace(instruction=None, execute=asked, seed=3, max_actions=9)
    episode = run_episode(arm, pipeline, EpisodeOptions.of(settings, pipeline, arm), Profiler())
    assert [len(chunk.actions) for chunk in arm.chunks] == lengths
    assert len(episode.plans) == len(lengths)


def test_dream4manip_dreams_once_and_acts_on_every_observation(open_pipeline, observation):
    pipeline, arm = open_pipeline("dream4manip"), StillArm(observation.images["scene"])
    seen, act = [], pipeline.act
    pipeline.act = lambda plan, history, *rest: seen.append(deque(history)) or act(plan, history, *rest)
    episode = run_episode(arm, pipeline, options(max_actions=10), Profiler())
    assert len(episode.plans) == 1
    assert episode.plans[0][1].times_s is None
    assert len(arm.chunks) == 10
    assert [len(history) for history in seen] == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8]
    assert [round(o.time_s, 3) for o in seen[-1]] == [round(0.1 * k, 3) for k in range(2, 10)]


def test_an_episode_ends_when_solved(open_pipeline, observation):
    arm = StillArm(observation.images["scene"])
    episode = run_episode(arm, open_pipeline(), options(), Profiler(), solved=lambda: len(arm.chunks) == 1)
    assert episode.solved
    assert episode.actions == 8


def test_plan_time_is_spent_on_the_arms_clock(open_pipeline, observation):
    arm = StillArm(observation.images["scene"])

    def spend(seconds):
        assert seconds > 0
        arm.time_s += 2.0

    run_episode(arm, open_pipeline(), options(max_actions=8), Profiler(), spend=spend)
    assert np.allclose(arm.chunks[0].times_s, 2.0 + 0.1 * np.arange(1, 9))


def test_a_failure_brakes_the_arm(open_pipeline, observation):
    arm = StillArm(observation.images["scene"][:5])
    with pytest.raises(CameraMismatchError) as caught:
        run_episode(arm, open_pipeline(), options(), Profiler())
    assert arm.stopped
    assert caught.value.exit_code == 21


@pytest.mark.parametrize("image", [np.zeros((32, 48, 4), np.uint8), np.zeros((32, 48, 3), np.float32), None])
def test_wrong_images_are_refused(open_pipeline, image):
    with pytest.raises(CameraMismatchError, match="wanted uint8 32x48x3"):
        open_pipeline().imagine([Observation({"scene": image}, np.zeros(7), 0.0)], "push", 0)


def test_another_camera_is_refused(open_pipeline, observation):
    with pytest.raises(ConfigError, match="'scene'"):
        open_pipeline().imagine([replace(observation, images={"wrist": observation.images["scene"]})], "push", 0)


def test_overrides_change_the_samplers_of_the_stage_they_name(open_pipeline, observation):
    pipeline = open_pipeline(overrides=Overrides("dpmpp_2m", 3, 1.0, 2))
    steps = []
    pipeline.imagine([observation], "push", 0, progress=lambda name, done, total: steps.append((name, done, total)))
    assert ("preview", 3, 3) in steps
    assert ("refine", 2, 2) in steps
    samplers = {stage.spec.name: stage.spec.sampler for stage in pipeline.stages if stage.spec.sampler}
    assert samplers["preview"].kind == "dpmpp_2m"
    assert samplers["act"].steps == 4


@pytest.mark.parametrize(
    "bad", [Overrides(preview_steps=0), Overrides(preview_sampler="magic"), Overrides(refine_steps=-1)]
)
def test_bad_overrides_are_refused(open_pipeline, bad):
    with pytest.raises(ConfigError) as caught:
        open_pipeline(overrides=bad)
    assert caught.value.exit_code == 2


def test_spans_cover_every_engine_run(open_pipeline, observation):
    pipeline, profiler = open_pipeline(), Profiler()
    plan = pipeline.imagine([observation], "push", 0, profiler)
    pipeline.act(plan, [observation], "push", profiler)
    runs = {name: sum(span.name == name for span in profiler.spans) for name in {s.name for s in profiler.spans}}
    assert runs["preview: engine"] == 4
    assert runs["refine: engine"] == 4
    assert runs["decode: engine"] == 2
    assert runs["act: engine"] == 4
    preview = sum(span.flop for span in profiler.spans if span.name == "preview: engine")
    refine = sum(span.flop for span in profiler.spans if span.name == "refine: engine")
    assert preview == 2 * refine, "guidance doubles the work"


def test_actions_are_in_the_contracts_units_and_never_infinite(make_bundle):
    contract = make_bundle().manifest.action
    assert np.allclose(unnormalise(np.full((1, 7), 1.5, np.float32), contract), contract.upper)
    middle = np.add(contract.lower, contract.upper) / 2
    assert np.allclose(unnormalise(np.zeros((1, 7), np.float32), contract), middle)
    with pytest.raises(OutputError) as caught:
        unnormalise(np.full((1, 7), np.nan, np.float32), contract)
    assert caught.value.exit_code == 32


def test_actions_tell_how_far_the_policys_samples_disagree(open_pipeline, observation):
    pipeline, arm = open_pipeline(), StillArm(observation.images["scene"])
    chunk = pipeline.act(pipeline.imagine([observation], "push", 0), [observation], "push")
    assert chunk.spread.shape == chunk.actions.shape == (8, 7)
    assert (chunk.spread > 0).all()
    episode = run_episode(arm, pipeline, options(max_actions=3), Profiler())
    assert len(episode.spread) == 3
    dream = open_pipeline("dream4manip")
    assert dream.act(dream.imagine([observation], "push", 0), [observation], "push").spread is None


def test_chunks_that_leave_actions_out_are_refused(make_bundle):
    bundle = make_bundle()
    act = bundle.manifest.stage("act")
    assert chunking(act).actions == 8
    for change in ({"offsets": (0.0, 6.0)}, {"stride": 5.0, "frames": 11.0}, {"frames": 2.0}):
        with pytest.raises(BundleIncompatibleError, match="leave some"):
            chunking(replace(act, constants={**act.constants, **change}))
