"""Packages of somebody else's: a fault of one is told by its name, in one line, with exit code 2."""

import os
import subprocess
import sys

import pytest

from dvgwm.runtime import entries
from dvgwm.runtime.config.plugins import load_robot, open_backend
from dvgwm.runtime.errors import ConfigError

COMMAND = [sys.executable, "-c", "from dvgwm.runtime.cli import main; main()"]
SPEC = "from dataclasses import replace\nfrom dvgwm.robots.galaxea_a1 import ROBOT as A1\n"
BROKEN = {
    "exits": ("import sys\nsys.exit(0)", "stray:ROBOT", "ROBOT_BROKEN"),
    "raises": ("1 / 0", "stray:ROBOT", "ROBOT_BROKEN"),
    "syntax": ("def", "stray:ROBOT", "ROBOT_BROKEN"),
    "asks to end": ("raise SystemExit", "stray:ROBOT", "ROBOT_BROKEN"),
    "interrupts": ("raise KeyboardInterrupt", "stray:ROBOT", "ROBOT_BROKEN"),
    "no such object": ("", "stray:ROBOT", "ROBOT_BROKEN"),
    "no such module": ("", "absent_module:ROBOT", "ROBOT_MISSING"),
    "no object at all": ("", "stray", "ROBOT_BROKEN"),
    "an odd value": ("", "stray robot!", "ROBOT_BROKEN"),
    "a text": ("ROBOT = 'robot'", "stray:ROBOT", "ROBOT_BROKEN"),
    "none": ("ROBOT = None", "stray:ROBOT", "ROBOT_BROKEN"),
    "a class": ("class ROBOT: name = 'stray'", "stray:ROBOT", "ROBOT_BROKEN"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_robot_that_is_no_use_is_named_with_its_package(install, case):
    text, value, log_code = BROKEN[case]
    install("stray", text, {"robots": f"stray = {value}"})
    with pytest.raises(ConfigError) as caught:
        load_robot("stray")
    assert caught.value.log_code == log_code
    assert "stray" in str(caught.value)
    assert load_robot("galaxea_a1").name == "galaxea_a1"


def test_a_robot_is_called_what_it_is_registered_as(install):
    """Motion's process finds it by its registered name: it must not find the robot behind this copy."""
    install("stray", f"{SPEC}ROBOT = A1", {"robots": "stray = stray:ROBOT"})
    assert load_robot("stray").name == "stray"


@pytest.mark.parametrize("case", ["exits", "raises", "none", "a class"])
def test_the_command_ends_with_2(install, tmp_path, case):
    install("stray", BROKEN[case][0], {"robots": "stray = stray:ROBOT"})
    done = subprocess.run([*COMMAND, "--robot", "stray"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("E2 ROBOT_BROKEN stray of stray 1.0 in ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("group", "text", "words"),
    [
        ("robots", "import os\nos._exit(0)", ["--robot", "stray"]),
        (
            "backends",
            "import sys\ndef ROBOT(threads):\n    sys.exit(0)",
            ["--robot", "galaxea_a1", "--backend", "stray"],
        ),
        (
            "backends",
            "import os\ndef ROBOT(threads):\n    os._exit(0)",
            ["--robot", "galaxea_a1", "--backend", "stray"],
        ),
    ],
)
def test_a_command_that_a_package_ends_is_no_success(install, tmp_path, group, text, words):
    install("stray", text, {group: "stray = stray:ROBOT"})
    done = subprocess.run([*COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr.startswith("E"), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.few(1)
@pytest.mark.parametrize("made", ["raise SystemExit(0)", "return 1 / 0", "return x"])
def test_a_robot_that_cannot_be_made_is_told(install, tmp_path, made):
    text = f"{SPEC}def simulate(options):\n    {made}\nROBOT = replace(A1, arm=replace(A1.arm, name='stray'), "
    text += "simulation=replace(A1.simulation, simulate=simulate))"
    install("stray", text, {"robots": "stray = stray:ROBOT"})
    for more in ([], ["--process"]):
        words = [*COMMAND, "--robot", "stray", *more]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("E2 ROBOT_BROKEN stray cannot be made: "), done.stderr


@pytest.mark.parametrize(
    ("group", "use"),
    [("robots", load_robot), ("backends", lambda name: open_backend(name, None)), ("cameras", None), ("arm", None)],
)
def test_one_name_by_two_packages_is_refused_by_their_names(install, group, use):
    install("first", "ONE = 1", {group: "both = first:ONE"})
    install("second", "ONE = 1", {group: "both = second:ONE"})
    with pytest.raises(ConfigError, match=r"(first|second) 1\.0 .* and (first|second) 1\.0") as caught:
        (use or (lambda name: entries.load(group, name)))("both")
    assert caught.value.log_code.endswith("_TWICE")


def test_a_name_of_ours_by_another_package_is_refused(install):
    install("rival", f"{SPEC}ROBOT = A1", {"robots": "galaxea_a1 = rival:ROBOT"})
    with pytest.raises(ConfigError, match=r"rival 1\.0") as caught:
        load_robot("galaxea_a1")
    assert caught.value.log_code == "ROBOT_TWICE"


@pytest.mark.parametrize("text", ["BACKEND = 3", "BACKEND = None", "def BACKEND(): pass\nBACKEND = 'x'"])
def test_a_backend_without_facts_is_told(install, text):
    install("stray", text, {"backends": "stray = stray:BACKEND"})
    with pytest.raises(ConfigError) as caught:
        open_backend("stray", None)
    assert caught.value.log_code == "BACKEND_BROKEN"


def test_metadata_that_cannot_be_read_is_told(install):
    install("stray", "", {"robots": "no equals sign here"})
    with pytest.raises(ConfigError) as caught:
        entries.names("robots")
    assert caught.value.log_code == "PACKAGES"


def test_the_working_directory_is_not_looked_at_for_robots(install, tmp_path):
    """A package in the working directory is not installed, however the command is started."""
    folder = tmp_path / "here"
    text = f"{SPEC}ROBOT = replace(A1, arm=replace(A1.arm, name='stray'))"
    install("stray", text, {"robots": "stray = stray:ROBOT"}, folder)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*COMMAND, "--robot", "stray"], cwd=folder, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stderr.startswith("E2 ROBOT_UNKNOWN"), done.stderr
