"""What motion says: a sentence for every log code that it tells or latches with, and the error that a run then ends with."""

from collections.abc import Mapping

from dvgwm.runtime.errors import (
    CameraLostError,
    DeadlineError,
    DvgwmError,
    GateLatchError,
    RobotCommunicationError,
    RobotStopError,
)
from dvgwm.runtime.types import ArmEvent

ENDS: Mapping[str, type[DvgwmError]] = {
    "ROBOT_STOP": RobotStopError,
    "ROBOT_UNTRUSTED": RobotCommunicationError,
    "ROBOT_SILENT": RobotCommunicationError,
    "ROBOT_STATE": RobotCommunicationError,
    "MOTION_PAUSES": CameraLostError,
    "MOTION_PAUSED": CameraLostError,
    "MOTION_LATES": DeadlineError,
}
"""What a latch ends a run with, where it is not the gate's own."""
MESSAGES = {
    "GATE_HEARTBEAT": "who plans gave no sign of life: braked, held and latched",
    "GATE_STALE": "the actions follow from what was seen too long ago: braked and held",
    "GATE_FRAME": "the camera's frame is too old: braked and held",
    "GATE_SHAPE": "the command has another number of joints: braked, held and latched",
    "GATE_NONFINITE": "the command is no finite number: braked, held and latched",
    "GATE_TRACKING": "the arm does not follow: braked towards where it is, held and latched",
    "GATE_JUMP": "the command jumped: braked, held and latched",
    "GATE_LIMIT": "the command left the position limits{where}: clamped",
    "GATE_FAST": "the command was too fast{where}: slowed down",
    "GATE_WORKSPACE": "the tool would have left its workspace: braked",
    "GATE_TOOL_FAST": "the tool would have been too fast: braked",
    "GATE_CLAMPED": "too many commands had to be clamped: braked, held and latched",
    "ROBOT_STOP": "the robot has stopped itself: nothing is sent, latched",
    "ROBOT_UNTRUSTED": "what the robot tells, or who commands it, cannot be relied on: braked, latched, then nothing is sent",
    "ROBOT_SILENT": "the robot's state is too old: nothing is sent, latched",
    "ROBOT_STATE": "the robot's state is no finite number per joint: braked, held and latched",
    "MOTION_SEQUENCE": "a chunk came out of order and was not played",
    "MOTION_CLOCK": "the clock went back: braked, held and latched",
    "MOTION_GAP": "ticks were left out: braked, held and latched",
    "MOTION_LATE": "every target of the chunk was already past: held",
    "MOTION_LATES": "four chunks within a minute came too late to be played: held and latched",
    "MOTION_LEAP": "the chunk begins too far from where the arm is: braked, held and latched",
    "MOTION_RANGE": "the chunk leaves the joints' range by far, as other units would: braked, held and latched",
    "MOTION_LIMIT": "the chunk left the position limits{where}: kept inside",
    "MOTION_FAST": "the chunk was too fast{where}: slowed down",
    "MOTION_WORKSPACE": "the chunk was too fast for the edge of the workspace: slowed down",
    "MOTION_TOOL_FAST": "the chunk was too fast for the tool: slowed down",
    "MOTION_PAUSES": "there were too many pauses within a minute: held and latched",
    "MOTION_PAUSED": "a pause was too long: held and latched",
}


def stopped(log_code: str, said: str = "") -> DvgwmError:
    """Return the error that a run ends with whose arm was latched with ``log_code``; ``said`` is what the robot said of it."""
    kind = ENDS.get(log_code, GateLatchError)
    told = f" ({said})" if said and kind is not GateLatchError else ""
    return kind(log_code, f"{MESSAGES[log_code].format(where='')}{told}; start again to re-arm it")


def event(code: str, now_s: float, joint: int | None) -> ArmEvent:
    """Return the event that tells ``code``, at ``joint`` where one is meant."""
    where = "" if joint is None else f" at joint {joint + 1}"
    return ArmEvent(code, now_s, MESSAGES[code].format(where=where))
