"""The fault campaign's second part: what fails before motion, in a whole run, each at five moments of it.

The arm is simulated, the engines are stand-ins (a stage's numbers do not matter here); one of them, or the camera, fails at its
n-th turn. Whatever fails, the arm is to be at rest, and the run to end with the fault's exit code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")

from dvgwm.robots.arm import open_arm
from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.runtime.backends.host import HostBackend
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.errors import DvgwmError
from dvgwm.runtime.loop import EpisodeOptions, run_episode
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.profiler import Profiler

pytestmark = pytest.mark.sim
TURNS = 1, 2, 3, 5, 8
"""Of the engine or the camera: one of these fails, and all after it."""


@dataclass
class Sick:
    """An engine that is spoiled from its n-th run on."""

    engine: Any
    spoil: Callable[[dict[str, Any]], Mapping[str, Any]]
    first: int
    runs: int = 0

    @property
    def spec(self):
        return self.engine.spec

    def warmup(self, shapes):
        return self.engine.warmup(shapes)

    def run(self, tensors):
        self.runs += 1
        made = self.engine.run(tensors)
        return made if self.runs < self.first else self.spoil(dict(made))

    def close(self):
        self.engine.close()


@dataclass
class Blind:
    """An arm whose camera's frames are changed from the n-th look on."""

    arm: Any
    change: Callable[[Any, list[Any]], Any]
    first: int
    looks: int = 0
    seen: list[Any] = field(default_factory=list)

    def observe(self):
        self.looks += 1
        observation = self.arm.observe()
        self.seen.append(observation)
        if self.looks < self.first:
            return observation
        return replace(observation, images={"scene": self.change(observation.images["scene"], self.seen)})

    def __getattr__(self, name):
        return getattr(self.arm, name)


def one_number(value):
    def spoil(outputs):
        for array in outputs.values():
            array.flat[array.size // 2] = value
        return outputs

    return spoil


def raising(error):
    def spoil(outputs):
        raise error

    return spoil


@dataclass(frozen=True)
class Fault:
    """What goes wrong in which engine, or in the camera (None), and with which codes the run is to end."""

    name: str
    engine: str | None
    change: Callable[..., Any]
    exit_code: int
    log_code: str


FAULTS = {
    "F05 size": Fault("a frame of another size", None, lambda image, _: image[:-1], 21, "CAMERA_FRAME"),
    "F05 channels": Fault("a frame of one channel", None, lambda image, _: image[..., :1], 21, "CAMERA_FRAME"),
    "F05 type": Fault("a frame of floats", None, lambda image, _: image / 255.0, 21, "CAMERA_FRAME"),
    "F05 none": Fault("no frame", None, lambda *_: None, 21, "CAMERA_FRAME"),
    "F06 black": Fault("a black frame", None, lambda image, _: image * 0, 20, "CAMERA_BLANK"),
    "F06 white": Fault("a saturated frame", None, lambda image, _: image * 0 + 255, 20, "CAMERA_BLANK"),
    "F06 frozen": Fault(
        "the first frame again and again", None, lambda _, seen: seen[0].images["scene"], 20, "CAMERA_FROZEN"
    ),
    "F07 latents": Fault("NaN in the latents", "preview.onnx", one_number(np.nan), 32, "OUTPUT_NONFINITE"),
    "F07 actions": Fault("an infinite action", "policy.onnx", one_number(np.inf), 32, "ACTION_NONFINITE"),
    "F08": Fault(
        "an output of another shape",
        "refine.onnx",
        lambda outputs: {k: v[..., :1] for k, v in outputs.items()},
        32,
        "TENSOR_SPEC",
    ),
    "F09": Fault("no memory left", "preview.onnx", raising(MemoryError()), 30, "ENGINE_MEMORY"),
    "F10": Fault(
        "the engine's device is lost", "refine.onnx", raising(RuntimeError("device lost")), 31, "ENGINE_FAILED"
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its codes, whether the arm moved when it failed, and whether it was at rest in the end."""

    exit_code: int
    log_code: str
    moving: bool
    resting: bool


def run(bundle, fault, first) -> Outcome:
    """Return what becomes of a run of chunks of two actions that meets the fault at a turn."""
    fake, moving = open_backend("fake", None), []
    real = open_arm(ROBOT, task=ROBOT.simulation.tasks[0], seed=0, height_px=32, width_px=48)

    def change(*given):
        moving.append(not real._core.resting)
        return fault.change(*given)

    def load(path, spec):
        engine = fake.load(path, spec)
        return Sick(engine, change, first) if spec.file == fault.engine else engine

    arm = real if fault.engine is not None else Blind(real, change, first)
    try:
        with Pipeline(bundle, HostBackend("fake", load), None) as pipeline:
            try:
                ended = run_episode(arm, pipeline, EpisodeOptions("push the cube", 0, 2, 40), Profiler()).stopped
            except DvgwmError as error:
                ended = error
        return Outcome(ended.exit_code, ended.log_code, moving[0], real._core.resting)
    finally:
        real.close()


@pytest.fixture(scope="module")
def outcomes(module_bundle):
    """What became of every fault, by its name and the turn."""
    return {(name, first): run(module_bundle, fault, first) for name, fault in FAULTS.items() for first in TURNS}


@pytest.mark.parametrize("first", TURNS)
@pytest.mark.parametrize("name", FAULTS)
def test_whatever_fails_the_arm_is_at_rest(outcomes, name, first):
    fault, made = FAULTS[name], outcomes[name, first]
    assert (made.exit_code, made.log_code, made.resting) == (fault.exit_code, fault.log_code, True)


def test_some_of_it_fails_while_the_arm_moves(outcomes):
    assert sum(made.moving for made in outcomes.values()) > len(outcomes) / 3


def test_the_page_says_what_came_out(outcomes, hold_section):
    lines = ["| fault | what goes wrong | log code | exit | the arm moved when it failed |", "|---|---|---|---|---|"]
    for name, fault in FAULTS.items():
        moved = sum(outcomes[name, first].moving for first in TURNS)
        lines.append(
            f"| {name} | {fault.name} | `{fault.log_code}` | {fault.exit_code} | {moved} of {len(TURNS)} times |"
        )
    hold_section("faults.md", "A run", "\n".join(lines))
