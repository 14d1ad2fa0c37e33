"""Faults of a real robot, at five moments of a chunk, by the real client library and a counterpart that speaks its protocol."""

from collections import defaultdict
from dataclasses import dataclass

import pytest

from dvgwm.robots import messages
from dvgwm.robots.a1_model import SAFETY as A1_LIMITS
from dvgwm.robots.serve import CODES
from dvgwm.robots.ur7e_model import SAFETY as UR_LIMITS

pytestmark = pytest.mark.alone
PHASES_S = (0.05, 0.35, 0.65, 0.95, 1.25)
"""Since the arm began to move: it swings, so it is slow and fast, and goes both ways."""
SOME_S = PHASES_S[1::2]
MOMENTS = [pytest.param(s, marks=[pytest.mark.thorough] if s == SOME_S[-1] else []) for s in PHASES_S]


@dataclass(frozen=True)
class Fault:
    """What a counterpart is told, and what has to come of it: log codes, exit code, and whether anything is sent later."""

    ident: str
    name: str
    a1: dict
    ur: dict
    log_codes: tuple[str, ...]
    exit_code: int
    sends: bool = False


FAULTS = (
    Fault("F29", "states stop coming", {"joints": "dropped"}, {"joints": "dropped"}, ("ROBOT_SILENT",), 40),
    Fault(
        "F29",
        "states come .3 s late",
        {"joints": "delayed", "delay_s": 0.3},
        {"joints": "delayed", "delay_s": 0.3},
        ("ROBOT_SILENT",),
        40,
    ),
    Fault(
        "F29",
        "the same state again and again",
        {"joints": "duplicated"},
        {"joints": "duplicated"},
        ("ROBOT_SILENT",),
        40,
    ),
    Fault("F30", "the robot stops itself", {"codes": [0, 0, 512, 0, 0, 0]}, {"safety_bits": 4}, ("ROBOT_STOP",), 41),
    Fault("F31", "the joints are blocked", {"stuck": True}, {"stuck": True}, ("GATE_TRACKING",), 42, sends=True),
)
ONCE = (
    Fault("F29", "states out of order", {"joints": "reordered"}, {"joints": "reordered"}, ("ROBOT_SILENT",), 40),
    Fault("F29", "the gripper falls silent", {"mute_gripper": True}, {"gripper": "silent"}, ("ROBOT_DRIVER",), 40),
    Fault("F29", "its process is killed", {"die": True}, {"die": True}, ("ROBOT_DRIVER", "ROBOT_SILENT"), 40),
    Fault(
        "F30",
        "emergency stop",
        {"codes": [1 << 15, 0, 0, 0, 0, 0]},
        {"safety_bits": 1 << 6 | 1 << 7},
        ("ROBOT_STOP",),
        41,
    ),
)


@pytest.fixture(params=["galaxea_a1", "ur7e"])
def armed(request, motion_process):
    """What has motion take hold of a robot's counterpart, which is started anew where it was killed, and move it."""
    made = []

    def start():
        started = request.getfixturevalue("a1_node" if request.param == "galaxea_a1" else "ur_controller")
        there = next((each for each in started.made if each.process.poll() is None), None) or started()
        there.say(go=there.ask()["joints"][:6])
        limits = A1_LIMITS if request.param == "galaxea_a1" else UR_LIMITS
        for last in (False, False, True):
            made.append(motion_process(limits, request.param, there.address))
            try:
                made[-1].arm()
                made[-1].play(4.0)
                break
            except AssertionError:  # two cores, tests on both: ticks were left out before anything was wrong
                made.pop().close()
                if last:
                    raise
        return there, made[-1]

    yield request.param, start
    for motion in made:
        motion.close()


@pytest.fixture(scope="module")
def outcomes():
    """The log codes that came of a fault, by robot and fault."""
    return defaultdict(set)


def suffer(robot, there, motion, fault, after_s):
    """Have the fault happen; return the log code that came of it, whose end is asserted."""
    motion.pass_time(after_s)
    told = fault.ur if robot == "ur7e" else fault.a1
    there.say(**told)
    motion.until(lambda: motion.state.latched or motion.process.poll() is not None, 3)
    codes = [CODES[state.code] for _, state in motion.states if state.latched]
    if motion.process.poll() is None:
        assert codes[0] in fault.log_codes, motion.said
        assert messages.stopped(codes[0]).exit_code == fault.exit_code
        if "die" in told:  # its silence may be noticed before its end
            there.process.wait(5)
        else:
            motion.pass_time(0.05)
            before = there.ask()["commands"]
            motion.pass_time(0.15)
            assert (there.ask()["commands"] > before) == fault.sends
        return codes[0]
    # The driver itself failed, and went on failing.
    assert "ROBOT_DRIVER" in fault.log_codes
    assert (motion.process.returncode, fault.exit_code) == (40, 40)
    assert "E40 ROBOT_DRIVER" in motion.child.said()
    return "ROBOT_DRIVER"


@pytest.mark.parametrize("after_s", MOMENTS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.ident} {fault.name}")
def test_a_fault_at_any_moment_ends_as_declared(armed, outcomes, soak, fault, after_s):
    if not soak.all and after_s not in SOME_S:
        pytest.skip("a moment that is tried with --soak")
    robot, start = armed
    outcomes[robot, fault.name].add(suffer(robot, *start(), fault, after_s))


@pytest.mark.parametrize("fault", ONCE, ids=lambda fault: f"{fault.ident} {fault.name}")
def test_a_fault_ends_as_declared(armed, outcomes, fault):
    robot, start = armed
    outcomes[robot, fault.name].add(suffer(robot, *start(), fault, 0.4))


def test_the_page_says_what_came_out(outcomes, hold_section):
    robots = ("galaxea_a1", "ur7e")
    if any((robot, fault.name) not in outcomes for robot in robots for fault in (*FAULTS, *ONCE)):
        pytest.skip("the faults above were not all tried: ROS 1 or ur-rtde is not installed, or some were deselected")
    lines = ["| fault | what goes wrong | moments | log code | exit |", "|---|---|---|---|---|"]
    for fault in (*FAULTS, *ONCE):
        assert outcomes["galaxea_a1", fault.name] | outcomes["ur7e", fault.name] <= set(fault.log_codes)
        told = " or ".join(f"`{code}`" for code in fault.log_codes)
        moments = len(PHASES_S) if fault in FAULTS else 1
        lines.append(f"| {fault.ident} | {fault.name} | {moments} | {told} | {fault.exit_code} |")
    hold_section("faults.md", "Drivers", "\n".join(lines))
