"""The simulated arm as a driver: joint targets in, physics, joint positions and camera images out, on a virtual clock."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.types import DoubleArray, ImageArray

from ..a1_model import JOINT_NAMES, KINEMATICS, LIMITS, ORIGINS, TOOL
from ..spec import SimulationOptions
from .arm import FINGER_TRAVEL_M
from .cameras import CAMERAS
from .library import mujoco
from .render import Renderer, open_renderer
from .scene import TIMESTEP_S, scene_text
from .tasks import TASKS, Layout, Positions, layout_of, moved_bodies

HOME_POSE = (0.29, 0.0, 0.13, 0.0, 0.0, 0.0)
NEAR_HOME_RAD = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0)
SETTLE_STEPS = 100
BRUSH_OPENING = 0.01


class MujocoRobot:
    """A simulated Galaxea A1 at a task: implements `dvgwm.robots.spec.SimulatedRobot`, and tells its true state.

    ``renderer`` forces ``egl``, ``osmesa`` or ``ray casting``. Raises `ConfigError` for an unknown task or renderer.
    """

    def __init__(self, options: SimulationOptions, renderer: str | None = None) -> None:
        self.layout: Layout = layout_of(options.task, options.seed)
        self._size_px = (options.height_px, options.width_px)
        self._model = mujoco.MjModel.from_xml_string(_scene(self.layout, self._size_px))
        self._data: Any = mujoco.MjData(self._model)
        self._joints = [self._model.joint(name).qposadr[0] for name in JOINT_NAMES[:6]]
        self._fingers = [self._model.joint(f"finger_{side}").qposadr[0] for side in ("left", "right")]
        self._wanted_renderer = renderer
        self._open_renderer: Renderer | None = None
        self._steps = 0
        self._rest()
        self._start = self.bodies()

    @property
    def time_s(self) -> float:
        """The virtual clock."""
        return self._steps * TIMESTEP_S

    @property
    def instruction(self) -> str:
        """The sentence for this layout's goal."""
        return self.layout.instruction

    @property
    def other_instruction(self) -> str:
        """A sentence for another thing of this layout, or for another task if there is but one."""
        tasks = (self.layout.task, *TASKS.values())
        sentences = (task.instruction(target) for task in tasks for target in task.targets)
        return next(sentence for sentence in sentences if sentence != self.instruction)

    @property
    def renderer(self) -> str:
        """The renderer of images: ``egl``, ``osmesa`` or ``ray casting``."""
        return self._renderer().name

    def connect(self, calibrate: bool = True) -> None:
        """Nothing to open; nothing moves."""

    def disconnect(self) -> None:
        """Free the renderer."""
        if self._open_renderer is not None:
            self._open_renderer.close()
            self._open_renderer = None

    def positions(self) -> tuple[float, ...]:
        """Return the measured joint positions in radians, the gripper opening (0..1) last."""
        opening = float(self._data.qpos[self._fingers].mean()) / FINGER_TRAVEL_M
        return (*map(float, self._data.qpos[self._joints]), opening)

    def images(self, cameras: Sequence[str] = CAMERAS) -> Mapping[str, ImageArray]:
        """Return one uint8 H W 3 frame per camera."""
        return {camera: self._renderer().render(self._data, camera) for camera in cameras}

    def get_observation(self) -> dict[str, Any]:
        """Return joint positions (``joint_1.pos`` ..) and camera frames by name."""
        joints = {f"{name}.pos": value for name, value in zip(JOINT_NAMES, self.positions(), strict=True)}
        return {**joints, **self.images()}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Set the joint targets (radians, gripper 0..1) and return them as the servos take them: inside the limits."""
        keys = tuple(f"{name}.pos" for name in JOINT_NAMES)
        if action.keys() != set(keys):
            raise ConfigError(
                "ACTION_NAMES", f"wanted {', '.join(keys)}, got {', '.join(map(str, action)) or 'nothing'}"
            )
        targets = np.clip([float(action[key]) for key in keys], LIMITS.lower, LIMITS.upper)
        self._command(targets)
        return dict(zip(keys, map(float, targets), strict=True))

    def advance(self, seconds: float) -> None:
        """Let physics run for ``seconds`` (whole physics steps, rounded) with the last command held."""
        steps = round(seconds / TIMESTEP_S)
        mujoco.mj_step(self._model, self._data, steps)
        self._steps += steps
        # What is seen from here on: bodies and cameras. The forces that `mj_forward` would add belong to the next step.
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def world(self) -> tuple[float, ...]:
        """Return steps and positions of everything movable, to draw a mirror from."""
        return (float(self._steps), *map(float, self._data.qpos))

    def mirror(self, world: Sequence[float]) -> None:
        """Take over the world of another one in the same scene; it does not move by itself."""
        self._steps = round(world[0])
        self._data.qpos[:] = world[1:]
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def solved(self) -> bool:
        """Return whether the goal is reached now."""
        return self.layout.task.reached(self._start, self.bodies(), self.layout.target)

    def bodies(self) -> Positions:
        """Return the true positions of all named bodies, float64 [3] in metres."""
        names = [self._model.body(index).name for index in range(self._model.nbody)]
        return {name: self._data.xpos[index].copy() for index, name in enumerate(names) if index and name}

    def moved(self) -> tuple[str, ...]:
        """Return the names of things displaced by more than 2 cm since the start."""
        return moved_bodies(self._start, self.bodies(), self.layout.task.movable)

    def heeds(self, instruction: str) -> bool | None:
        """Return whether the thing named in ``instruction`` was moved furthest of all things it could name.

        None if there is one thing only, or the instruction is another task's.
        """
        targets = {self.layout.task.instruction(target): target for target in self.layout.task.targets}
        if len(targets) == 1 or instruction not in targets:
            return None
        now = self.bodies()
        furthest = max(targets.values(), key=lambda name: float(np.linalg.norm(now[name] - self._start[name])))
        return furthest == targets[instruction] and furthest in self.moved()

    def _command(self, targets: DoubleArray) -> None:
        self._data.ctrl[:6] = targets[:6]
        self._data.ctrl[6:] = targets[6] * FINGER_TRAVEL_M

    def _rest(self) -> None:
        """Stand at home with everything settled on the table, at time 0."""
        arm, reached = KINEMATICS.inverse(np.array(HOME_POSE), np.array(NEAR_HOME_RAD))
        assert reached, "the home pose is inside the workspace"
        opening = BRUSH_OPENING if self.layout.task.with_brush else 1.0
        self._data.qpos[self._joints], self._data.qpos[self._fingers] = arm, opening * FINGER_TRAVEL_M
        self._command(np.append(arm, opening))
        mujoco.mj_step(self._model, self._data, SETTLE_STEPS)
        mujoco.mj_forward(self._model, self._data)
        self._data.time = 0.0

    def _renderer(self) -> Renderer:
        if self._open_renderer is None:
            self._open_renderer = open_renderer(self._model, *self._size_px, self._wanted_renderer)
        return self._open_renderer


def _scene(layout: Layout, size_px: tuple[int, int]) -> str:
    ranges = tuple(zip(LIMITS.lower[:6], LIMITS.upper[:6], strict=True))
    return scene_text(layout, ORIGINS, TOOL, ranges, size_px)
