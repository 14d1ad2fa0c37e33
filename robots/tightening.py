"""A lab's own limits: a TOML file that makes a robot's limits tighter, and cannot make them wider.

[joints.joint_1]           # any of: lower, upper (rad), velocity (rad/s), acceleration (rad/s^2), leap, jump, tracking (rad)
lower = -1.0
velocity = 0.5
[tool]                     # lower_m, upper_m: corners of its box in the base's frame; speed_m_s
speed_m_s = 0.25
[ages]                     # action_s, state_s, frame_s, heartbeat_s
action_s = 5.0
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.strict import read_toml, strict

from .chain import Vector
from .limits import JointLimits, SafetyLimits
from .spec import ArmModel, RobotSpec


@dataclass(frozen=True, slots=True)
class JointNumbers:
    """What a file may say of one joint; None where it says nothing."""

    lower: float | None = None
    upper: float | None = None
    velocity: float | None = None
    acceleration: float | None = None
    leap: float | None = None
    jump: float | None = None
    tracking: float | None = None


@dataclass(frozen=True, slots=True)
class ToolNumbers:
    """What a file may say of the tool."""

    lower_m: Vector | None = None
    upper_m: Vector | None = None
    speed_m_s: float | None = None


@dataclass(frozen=True, slots=True)
class AgeNumbers:
    """What a file may say of ages."""

    action_s: float | None = None
    state_s: float | None = None
    frame_s: float | None = None
    heartbeat_s: float | None = None


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a file may say."""

    joints: dict[str, JointNumbers] = field(default_factory=dict)
    tool: ToolNumbers = field(default_factory=ToolNumbers)
    ages: AgeNumbers = field(default_factory=AgeNumbers)


def tightened(spec: RobotSpec, path: Path) -> RobotSpec:
    """Return ``spec`` with the limits of the file at ``path``.

    Raises `ConfigError` for a file that cannot be read, a key, joint or number that has no sense, and a limit that is wider
    than the robot's own.
    """
    limits = _with(spec.arm, _numbers(path), path)
    if wide := list(wider(limits, spec.arm.limits, spec.arm.joint_names)):
        raise ConfigError("LIMITS_WIDER", f"{path}: {'; '.join(wide)}; a file can only make limits tighter")
    return replace(spec, arm=replace(spec.arm, limits=limits))


def _numbers(path: Path) -> Numbers:
    """Return what the file says; raises `ConfigError` where it is none of limits."""
    try:
        return strict(read_toml(path), Numbers)
    except OSError as error:
        raise ConfigError("LIMITS_FILE", f"cannot read limits from {path}: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, no TOML, unknown keys, other types
        raise ConfigError("LIMITS_FILE", f"{path}: {error}; wanted TOML with [joints.NAME], [tool], [ages]") from error


def wider(limits: SafetyLimits, factory: SafetyLimits, names: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for everything in ``limits`` that allows more than ``factory`` does, or is no number."""
    pairs: list[tuple[Any, Any, str]] = [(limits.joints, factory.joints, column.name) for column in fields(JointLimits)]
    pairs += [(limits, factory, name) for name in ("leap", "jump", "tracking")]
    for mine, theirs, column in pairs:
        for joint, value, most in zip(names, getattr(mine, column), getattr(theirs, column), strict=True):
            yield from _beyond(f"{column} of {joint}", value, most, column == "lower")
    if factory.workspace is not None and (
        limits.workspace is None or limits.workspace.chain != factory.workspace.chain
    ):
        yield "the tool's workspace is another one"
    elif limits.workspace is not None and factory.workspace is not None:
        for axis, at in zip("xyz", range(3), strict=True):
            yield from _beyond(f"lower_m {axis}", limits.workspace.lower_m[at], factory.workspace.lower_m[at], True)
            yield from _beyond(f"upper_m {axis}", limits.workspace.upper_m[at], factory.workspace.upper_m[at], False)
        yield from _beyond("speed_m_s", limits.workspace.speed_m_s, factory.workspace.speed_m_s, False)
    for age in fields(AgeNumbers):
        name = _field(age.name)
        yield from _beyond(name, getattr(limits, name), getattr(factory, name), False)


def _field(age: str) -> str:
    return f"{age.removesuffix('_s')}_age_s"


def _beyond(what: str, value: float, most: float, least: bool) -> Iterator[str]:
    if not (value >= most if least else value <= most):  # written so that NaN is beyond
        yield f"wanted {what} of at {'least' if least else 'most'} {most:g}, got {value:g}"


def _with(arm: ArmModel, numbers: Numbers, path: Path) -> SafetyLimits:
    """Return the arm's limits with what ``numbers`` say in their place."""
    limits, space = arm.limits, arm.limits.workspace
    if unknown := sorted(numbers.joints.keys() - set(arm.joint_names)):
        raise ConfigError("LIMITS_JOINT", f"{path}: no joint {unknown[0]!r}; there are {', '.join(arm.joint_names)}")
    tool = {
        entry.name: value for entry in fields(ToolNumbers) if (value := getattr(numbers.tool, entry.name)) is not None
    }
    if tool and space is None:
        raise ConfigError("LIMITS_TOOL", f"{path}: wanted no [tool], {arm.name} has no limits of its tool")

    def row(name: str, factory: Sequence[float]) -> tuple[float, ...]:
        said = (getattr(numbers.joints.get(joint), name, None) for joint in arm.joint_names)
        return tuple(own if value is None else value for value, own in zip(said, factory, strict=True))

    try:
        joints = JointLimits(*(row(column.name, getattr(limits.joints, column.name)) for column in fields(JointLimits)))
        rows: dict[str, Any] = {name: row(name, getattr(limits, name)) for name in ("leap", "jump", "tracking")}
        ages = {
            _field(entry.name): value
            for entry in fields(AgeNumbers)
            if (value := getattr(numbers.ages, entry.name)) is not None
        }
        space = None if space is None else replace(space, **tool)
        return replace(limits, joints=joints, workspace=space, **rows, **ages)
    except ConfigError as error:
        raise ConfigError(error.log_code, f"{path}: {error}") from error
