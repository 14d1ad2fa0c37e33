"""Controls show the policy something else than what was imagined."""

import json
from types import SimpleNamespace

import click.testing
import numpy as np
import pytest

from dvgwm.runtime.cli import cli
from dvgwm.runtime.commands.controls import imagination
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.loop import EpisodeOptions, run_episode
from dvgwm.runtime.pipeline import Pipeline, silent
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.types import Observation

ROBOT = SimpleNamespace(other_instruction="push the other cube")


@pytest.fixture(params=["dvgwm", "dream4manip"])
def pipeline(request, make_bundle):
    with Pipeline(make_bundle(request.param), open_backend("fake", None)) as opened:
        yield opened


PICTURE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


def seen(value, time_s):
    return Observation({"scene": np.full((32, 48, 3), value, np.uint8)}, np.zeros(7), time_s)


def plan(control, pipeline, observation, rehearsal=()):
    return imagination(control, pipeline, ROBOT, rehearsal)([observation], "push the cube", 3, Profiler(), silent)


def test_a_frozen_plan_holds_what_is_seen_now(pipeline):
    made = plan("frozen", pipeline, seen(70, 2.0))
    assert made.frames.shape == plan("other-instruction", pipeline, seen(70, 2.0)).frames.shape
    assert (made.frames == 70).all()


def test_true_frames_begin_at_the_plans_time_and_hold_their_last(pipeline):
    rehearsal = [seen(n, 0.1 * n) for n in range(5)]
    values = [int(frame[0, 0, 0]) for frame in plan("true-frames", pipeline, seen(9, 0.2), rehearsal).frames]
    assert values[:3] == [2, 3, 4]
    assert set(values[3:]) == {4}
    assert (plan("true-frames", pipeline, seen(9, 7.0), rehearsal).frames == 4).all()


def test_the_other_instruction_is_imagined(pipeline):
    made = plan("other-instruction", pipeline, seen(70, 0.0))
    wanted = pipeline.imagine([seen(70, 0.0)], ROBOT.other_instruction, 3)
    assert made.instruction == ROBOT.other_instruction
    assert np.array_equal(made.frames, wanted.frames)
    assert not np.array_equal(made.frames, pipeline.imagine([seen(70, 0.0)], "push the cube", 3).frames)


def test_without_a_control_the_pipeline_imagines(pipeline):
    assert imagination(None, pipeline, ROBOT, ()) is None


class Arm:
    """An arm that shows one picture for ever."""

    time_s = 0.0

    def observe(self):
        return Observation({"scene": PICTURE}, np.zeros(7), self.time_s)

    def play(self, chunk):
        self.time_s = float(chunk.times_s[-1])

    def events(self):
        return []

    def stop(self):
        pass


def test_an_episode_acts_on_what_takes_imaginations_place(pipeline):
    options = EpisodeOptions("push the cube", 0, 4, 8)
    frozen = imagination("frozen", pipeline, ROBOT, ())
    done = run_episode(Arm(), pipeline, options, Profiler(), imagine=frozen)
    assert done.actions == 8
    assert all((made.frames == PICTURE).all() for _, made in done.plans)


@pytest.mark.sim
@pytest.mark.parametrize("control", [None, "frozen", "other-instruction", "true-frames"])
def test_evaluate_shows_the_policy_what_its_control_says(make_bundle, monkeypatch, tmp_path, control):
    """What the act stage gets and what is imagined, seen from the command line."""
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    words, shown, asked, imagine, act = [], [], [], Pipeline.imagine, Pipeline.act

    def imagined(self, observations, instruction, *rest):
        words.append(instruction)
        return imagine(self, observations, instruction, *rest)

    def acted(self, plan, observations, instruction, *rest):
        shown.append((plan.frames, observations[-1].images["scene"]))
        return act(self, plan, observations, instruction, *rest)

    from dvgwm.robots.sim.driver import MujocoRobot

    def heeds(self, instruction):
        asked.append(instruction)
        return len(asked) % 2 == 1

    monkeypatch.setattr(Pipeline, "imagine", imagined)
    monkeypatch.setattr(Pipeline, "act", acted)
    monkeypatch.setattr(MujocoRobot, "heeds", heeds)
    line = ["evaluate", "--backend", "fake", "--bundle", str(make_bundle().path), "--cache-dir", str(tmp_path)]
    line += ["--episodes", "1", "--max-actions", "8", "--json", *(["--control", control] if control else [])]
    done = click.testing.CliRunner().invoke(cli, line, catch_exceptions=False)
    facts = json.loads(done.output)
    assert facts["control"] == control
    assert facts["object_accuracy"] == 1.0
    from dvgwm.robots.galaxea_a1 import ROBOT

    SPEC = ROBOT.simulation
    from dvgwm.robots.spec import SimulationOptions

    robot = SPEC.simulate(SimulationOptions(SPEC.tasks[0], 0, 32, 48))
    wanted = {None: [robot.instruction], "other-instruction": [robot.other_instruction]}
    assert words == wanted.get(control, [])
    assert asked == wanted.get(control, [robot.instruction]), "what was shown is what should be moved"
    frames, now = shown[0]
    if control == "frozen":
        assert all(np.array_equal(frame, now) for frame in frames)
    if control == "true-frames":
        truth = [seen.images["scene"] for seen in SPEC.rehearse(SPEC.tasks[0], 0, 32, 48)]
        assert all(np.array_equal(frame, other) for frame, other in zip(frames, truth, strict=False))
        assert not np.array_equal(frames[0], frames[-1])
