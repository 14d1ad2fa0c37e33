import numpy as np
import pytest

from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.sim.tasks import TASKS, instruction_variants, layout_of
from dvgwm.runtime.errors import ConfigError


def test_default_task_and_names():
    assert ROBOT.simulation.tasks == tuple(TASKS)
    assert ROBOT.simulation.tasks[0] == "fruit_in_bowl"
    assert len(ROBOT.simulation.tasks) == 5


@pytest.mark.parametrize("name", TASKS)
def test_instructions_are_short_plain_sentences(name):
    for sentence in instruction_variants(name, 3):
        assert len(sentence.encode("ascii")) <= 60


def test_most_tasks_are_told_apart_by_the_instruction_alone():
    assert sum(len(instruction_variants(name, 0)) >= 2 for name in TASKS) >= 3


@pytest.mark.parametrize("name", TASKS)
def test_one_seed_gives_one_layout_for_every_target(name):
    layouts = list(instruction_variants(name, 5).values())
    assert all(layout.poses == layouts[0].poses for layout in layouts)
    assert layout_of(name, 5).poses == layouts[0].poses
    assert layout_of(name, 6).poses != layouts[0].poses


@pytest.mark.parametrize("name", TASKS)
def test_every_target_is_drawn(name):
    assert {layout_of(name, seed).target for seed in range(40)} == set(TASKS[name].targets)


@pytest.mark.parametrize("name", TASKS)
def test_things_spread_over_fifteen_by_twenty_centimetres(name):
    thing = {"sweep": "pile"}.get(name, TASKS[name].targets[0])
    poses = [layout_of(name, seed).poses[thing] for seed in range(300)]
    assert np.ptp([pose.x_m for pose in poses]) >= 0.15
    assert np.ptp([pose.y_m for pose in poses]) >= 0.20


def test_a_target_can_be_named():
    assert layout_of("fruit_in_bowl:apple", 4).instruction == "put the apple into the bowl"


@pytest.mark.parametrize(("name", "code"), [("fly", "TASK_UNKNOWN"), ("push_cube:pink cube", "TASK_TARGET")])
def test_unknown_names_are_refused(name, code):
    with pytest.raises(ConfigError, match="wanted a ta") as raised:
        layout_of(name, 0)
    assert raised.value.log_code == code
