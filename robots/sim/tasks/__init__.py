"""The tabletop tasks of the simulated arm by name; the first is the default."""

from collections.abc import Mapping

from dvgwm.runtime.errors import ConfigError

from .fruit_in_bowl import FRUIT_IN_BOWL
from .open_drawer import OPEN_DRAWER
from .push_cube import PUSH_CUBE
from .stack_cube import STACK_CUBE
from .sweep import SWEEP
from .task import Layout, Positions, Task, moved_bodies

TASKS: Mapping[str, Task] = {task.name: task for task in (FRUIT_IN_BOWL, PUSH_CUBE, STACK_CUBE, OPEN_DRAWER, SWEEP)}


def layout_of(name: str, seed: int) -> Layout:
    """Return the layout of ``seed`` for a task's name, such as ``push_cube``, or ``push_cube:red cube`` for one target.

    Raises `ConfigError` for a task or target that is not there.
    """
    task_name, _, target = name.partition(":")
    if task_name not in TASKS:
        raise ConfigError("TASK_UNKNOWN", f"wanted a task among {', '.join(TASKS)}, got {task_name!r}")
    task = TASKS[task_name]
    if target and target not in task.targets:
        raise ConfigError(
            "TASK_TARGET", f"{task_name}: wanted a target among {', '.join(task.targets)}, got {target!r}"
        )
    return task.layout(seed, target or None)


def instruction_variants(name: str, seed: int) -> Mapping[str, Layout]:
    """Return every instruction that the layout of ``seed`` allows, each with that layout and its own target."""
    task = TASKS[name]
    return {task.instruction(target): task.layout(seed, target) for target in task.targets}


__all__ = ["TASKS", "Layout", "Positions", "Task", "instruction_variants", "layout_of", "moved_bodies"]
