"""Any robot behind motion and gate. Nothing else in this package commands a driver."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dvgwm.runtime.errors import ConfigError, ShapeError
from dvgwm.runtime.seams import Scene
from dvgwm.runtime.types import ActionChunk, ArmEvent, DoubleArray, MotionRecord, Observation, PlannedJoints, Tick

from . import messages, motion
from .spec import ArmModel, RobotSpec, SimulatedRobot, SimulationOptions, simulated

EE_WIDTH = 7
"""An end effector's action: x, y, z, a rotation vector, the gripper opening."""

RECORDED_S = 30.0
"""How much of its motion an arm remembers."""
OnFrame = Callable[[Observation, DoubleArray], None]
"""Called at every action's time with what is then seen and the action that led there."""


class VirtualArm:
    """A simulated robot played on its own virtual clock; implements `runtime.seams.SimulatedArm`."""

    def __init__(self, model: ArmModel, robot: SimulatedRobot, on_frame: OnFrame | None = None) -> None:
        self.model, self.robot = model, robot
        self._on_frame = on_frame
        self._events: list[ArmEvent] = []
        self._recorded = deque[Tick](maxlen=round(RECORDED_S / model.period_s))
        robot.connect()
        self._origin_s, self._ticks, self._sequence = robot.time_s, 0, 0
        self._core = motion.start(model.limits, model.period_s, robot.positions())

    @property
    def time_s(self) -> float:
        """The arm's clock."""
        return self._origin_s + self._ticks * self.model.period_s

    @property
    def scene(self) -> Scene:
        """The world around it: the simulated robot's."""
        return self.robot

    def observe(self) -> Observation:
        """Return the cameras' frames and the measured joints now."""
        return Observation(dict(self.robot.images()), np.asarray(self.robot.positions()), self.time_s)

    def play(self, chunk: ActionChunk) -> None:
        """Play ``chunk`` until its last action is due; actions due before are neither played nor shown.

        Raises the error of `messages.stopped` if the gate stopped it, after the arm has braked; before anything moves
        `ConfigError` for an action space unknown to this robot, `ShapeError` for actions or times without sense.
        """
        self._sequence += 1
        targets, missed = joint_targets(self.model, chunk, self._core.gate.position)
        self._events += [unreachable(missed, len(targets), self.time_s)] if missed else []
        times_s = tuple(map(float, chunk.times_s))
        box = motion.Mailbox(motion.JointChunk(self._sequence, times_s, targets, chunk.observed_s))
        begun_s = self.time_s
        self._tick(box)  # hands the chunk over, a late one too: it is motion that refuses
        for time_s, action in zip(chunk.times_s, chunk.actions, strict=True):
            self._play_until(float(time_s), box)
            if self._on_frame is not None and time_s > begun_s:
                self._on_frame(self.observe(), action)

    def hold(self, seconds: float) -> None:
        """Let time pass while the arm comes to rest and holds."""
        for _ in range(round(seconds / self.model.period_s)):
            self._tick(motion.Mailbox(stop=True))

    def events(self) -> Sequence[ArmEvent]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def recorded(self) -> MotionRecord:
        """Return the last half minute of motion."""
        return MotionRecord(self.model.joint_names, tuple(self._recorded))

    def stop(self) -> None:
        """Brake until every joint is at rest."""
        self._tick(motion.Mailbox(stop=True))
        while not self._core.resting:
            self._tick(motion.Mailbox(stop=True))

    def close(self) -> None:
        """Let go of the robot."""
        self.robot.disconnect()

    def _play_until(self, time_s: float, box: motion.Mailbox) -> None:
        while self._core.gate.latched is None and self.time_s < time_s - self.model.period_s / 2:
            self._tick(box)
        if self._core.gate.latched is not None:
            self.stop()
            raise messages.stopped(self._core.gate.latched)

    def _tick(self, box: motion.Mailbox) -> None:
        # What is simulated is never old: the joints are measured, and the cameras could be looked through, at any instant.
        seen = replace(box, measured=self.robot.positions(), measured_s=self.time_s, frame_s=self.time_s)
        self._core, verdict, event = motion.step(self._core, self.time_s, seen)
        told = self._core.gate.latched
        if event is not None:
            self._events.append(event)
            told = event.log_code
        self._recorded.append(Tick(self.time_s, verdict.position, tuple(seen.measured or ()), told))
        if verdict.send:
            command = zip(self.model.joint_names, verdict.position, strict=True)
            self.robot.send_action({f"{name}.pos": q for name, q in command})
        self.robot.advance(self.model.period_s)
        self._ticks += 1


def joint_targets(
    model: ArmModel, chunk: ActionChunk, position: Sequence[float]
) -> tuple[tuple[tuple[float, ...], ...], int]:
    """Return the actions as joint targets, the first one near ``position``, and how many poses are out of reach.

    Raises `ConfigError` for an action space unknown to the robot, `ShapeError` for poses of another width.
    """
    if chunk.space == "joint":
        return tuple(tuple(map(float, action)) for action in chunk.actions), 0
    if chunk.space != "ee":
        raise ConfigError("ACTION_SPACE", f"{model.name}: wanted joint or ee actions, got {chunk.space!r}")
    if chunk.actions.shape[1] != EE_WIDTH:
        raise ShapeError("ACTION_WIDTH", f"wanted ee actions of {EE_WIDTH} numbers, got {chunk.actions.shape[1]}")
    near, targets, missed = np.asarray(position), [], 0
    for action in chunk.actions:
        joints, reached = np.full(model.limits.joints.dof - 1, np.nan), True
        if np.isfinite(action).all():
            joints, reached = model.kinematics.inverse(action[:6], near)
            near = joints
        missed += not reached
        targets.append((*map(float, joints), float(action[-1])))
    return tuple(targets), missed


def planned_joints(spec: RobotSpec, chunk: ActionChunk) -> PlannedJoints:
    """Return the joints for the actions of ``chunk``, of a robot at no known pose.

    The first ones are near the middle of the joints' ranges. Raises as `joint_targets`.
    """
    joints = spec.arm.limits.joints
    middle = [(low + high) / 2 for low, high in zip(joints.lower, joints.upper, strict=True)]
    targets, missed = joint_targets(spec.arm, chunk, middle[:-1])
    return PlannedJoints(spec.name, spec.arm.joint_names, targets, missed)


def unreachable(missed: int, count: int, time_s: float) -> ArmEvent:
    """Return the event of a chunk with poses out of reach."""
    message = f"{missed} of {count} poses are out of reach: their nearest ones are played"
    return ArmEvent("ARM_UNREACHABLE", time_s, message)


def open_arm(
    spec: RobotSpec,
    *,
    task: str,
    seed: int,
    height_px: int,
    width_px: int,
    on_frame: OnFrame | None = None,
) -> VirtualArm:
    """Return the simulated robot of ``spec`` at ``task``, its layout drawn from ``seed``, behind motion and gate."""
    return VirtualArm(spec.arm, simulated(spec, SimulationOptions(task, seed, height_px, width_px)), on_frame)
