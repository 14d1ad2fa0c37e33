"""The messages of the A1's ROS 1 driver: their classes, what each must say to be believed, and its error codes in words.

They and their checksums are those of the vendor's A1 SDK (September 2024).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from . import ros

JOINTS = tuple(f"arm_joint{number}" for number in range(1, 7))
JOINT_STATE_MD5 = "3066dcd76a6cfaef579bd0f34173e9fd"
STATUS_MD5 = "6e3be6b3acaa4d25460958596a1f2bf0"
STATUS_PARTS = {
    "signal_arm/status": "string[] name\nsignal_arm/motor_error[] motor_errors",
    "signal_arm/motor_error": "uint32 error_code\nstring[] error_description",
}
GRIPPER_MD5 = "dbfc87e504144f4078e11692fe88aff0"
FAULTS = {
    6: "timeout between its controllers",
    7: "position limit",
    8: "speed limit",
    9: "torque limit",
    15: "communication lost",
    17: "serial line of the driver",
    18: "serial line of the driver",
    19: "serial line of the driver",
    20: "serial line of the driver",
}
"""Bits of an error code, as far as the vendor names them."""
IDLE = 1 << 6
"""Seen alone at an arm that is at rest and well."""


def unsound_joints(message: Any) -> str | None:
    """Return why joint states do not say what they must: each joint once, with a position and a speed; else None."""
    names = list(message.name)
    if len(set(names)) != len(names) or not set(JOINTS) <= set(names):
        return f"joint states name {', '.join(names) or 'nothing'}; wanted {', '.join(JOINTS)}, each once"
    if len(message.position) != len(names) or len(message.velocity) != len(names):
        counts = f"{len(message.position)} positions and {len(message.velocity)} speeds"
        return f"joint states have {counts} for {len(names)} names"
    return None


def unsound_gripper(message: Any) -> str | None:
    """Return why the gripper's state does not say what it must, one position; else None."""
    count = len(message.position)
    return None if count == 1 else f"the gripper's state has {count} positions; wanted one"


def unsound_status(status: Any) -> str | None:
    """Return why a status does not say what it must: an error code for each of the arm's motors, by its name; else None."""
    names, count = list(status.name), len(status.motor_errors)
    if len(names) != count:
        return f"the arm's status has {count} error codes for {len(names)} names"
    if count < len(JOINTS) or not all(names) or len(set(names)) != len(names):
        return (
            f"the arm's status names {', '.join(names) or 'no motor'}; wanted {len(JOINTS)} or more motors, each once"
        )
    return None


def status_messages(kind: str) -> dict[str, Any]:
    """Return the classes of the arm's status, called ``kind``, and of its parts."""
    return ros.messages(kind, "signal_arm/status data", STATUS_MD5, STATUS_PARTS)


def gripper_message() -> Any:
    """Return the class of a gripper's target."""
    kind = "signal_arm/gripper_position_control"
    return ros.messages(kind, "float32 gripper_stroke", GRIPPER_MD5)[kind]


def stop(faults: Mapping[str, int], moving: bool) -> str | None:
    """Return the faults of joints by their error codes in words, None where there are none."""
    said = []
    for name, code in faults.items():
        if code == 0 or (code == IDLE and not moving):
            continue
        bits = [bit for bit in range(32) if code >> bit & 1]
        said.append(f"{name}: {_words(bits)}")
    return "; ".join(said) or None


def _words(bits: Sequence[int]) -> str:
    return ", ".join(FAULTS.get(bit, f"fault {bit}") for bit in bits)
