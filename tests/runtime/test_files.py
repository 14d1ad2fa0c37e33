"""Directories are written whole or not at all, by as many commands at once as there are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.files import leftovers, numbered_directory, whole_directory

TWENTY = """
import os, random, sys, time
from pathlib import Path
from dvgwm.runtime.files import numbered_directory

ready, go = os.pipe()
children = []
for number in range(20):
    if (child := os.fork()) == 0:
        os.close(go)
        os.read(ready, 1)  # all begin when the other end is closed
        with numbered_directory(Path("runs")) as (folder, place):
            (folder / "who").write_text(str(number))
            time.sleep(random.random() / 20)
            while int(sys.argv[1]) and len(os.listdir("runs")) < 20:  # none is killed before all have begun
                time.sleep(0.05)
            (folder / "place").write_text(str(place))
            if number < int(sys.argv[1]):
                os.kill(os.getpid(), 9)
        os._exit(0)
    children.append(child)
os.close(go)
print(sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def twenty(folder, killed=0):
    done = subprocess.run(
        [sys.executable, "-c", TWENTY, str(killed)], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == str([-9] * killed + [0] * (20 - killed)), done.stderr


def test_twenty_that_begin_together_are_all_kept_and_numbered_in_a_row(tmp_path):
    for times in (1, 2):
        twenty(tmp_path)
        runs = sorted((tmp_path / "runs").iterdir())
        assert [run.name for run in runs] == [f"{number:04d}" for number in range(1, 20 * times + 1)]
        assert sorted(int((run / "who").read_text()) for run in runs) == sorted([*range(20)] * times)
        assert [(run / "place").read_text() for run in runs] == [f"runs/{run.name}" for run in runs]


def test_what_killed_commands_leave_is_found_and_the_next_ones_take_its_numbers(tmp_path):
    twenty(tmp_path, killed=6)
    left = list(leftovers(tmp_path / "runs"))
    assert len(left) == 6
    assert not any(written for _, written in left)
    kept = {path.name for path in (tmp_path / "runs").iterdir() if path.name[0] != "."}
    assert len(kept) == 14
    twenty(tmp_path)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [f"{number:04d}" for number in range(1, 35)]


def test_what_is_being_written_is_told_apart_and_is_nobody_elses(tmp_path):
    with numbered_directory(tmp_path) as (first, place):
        (first / "a").write_text("a")
        assert list(leftovers(tmp_path)) == [(first, True)]
        with numbered_directory(tmp_path) as (_, other):
            assert (place.name, other.name) == ("0001", "0002")
        assert (first / "a").read_text() == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0001", "0002"]


def test_one_place_is_written_by_one_command(tmp_path):
    with whole_directory(tmp_path / "run", "run.json", "run") as folder:
        (folder / "run.json").write_text("first")
        with (
            pytest.raises(ConfigError, match="is just being written by another command") as caught,
            whole_directory(tmp_path / "run", "run.json", "run"),
        ):
            pass
        assert caught.value.log_code == "OUT_BUSY"
    assert (tmp_path / "run/run.json").read_text() == "first"


def test_folders_made_on_the_way_go_only_where_nobody_uses_them(tmp_path):
    def fail_beside_another():
        with numbered_directory(tmp_path / "a/b"):
            with numbered_directory(tmp_path / "a/b") as (folder, _):
                (folder / "x").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail_beside_another()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["0002"]
    with pytest.raises(KeyError), numbered_directory(tmp_path / "c/d"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


SUPERVISED = """
import os, sys, time
from pathlib import Path
from dvgwm.runtime.commands.supervisor import supervise
from dvgwm.runtime.files import numbered_directory

def work():
    with numbered_directory(Path("deep/runs")) as (folder, _):
        (folder / "half").write_text("half")
        print("begun", flush=True)
        time.sleep(60)
    return 0

supervise(work, "nothing was kept")
"""


@pytest.mark.parametrize("other", [False, True], ids=["alone", "beside another"])
def test_a_supervised_command_that_dies_takes_its_own_folders_alone(tmp_path, other):
    child = subprocess.Popen([sys.executable, "-c", SUPERVISED], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "begun\n"
    if other:
        with numbered_directory(tmp_path / "deep/runs") as (folder, _):
            (folder / "x").write_text("x")
    command = int(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text())
    os.kill(command, signal.SIGSEGV)
    child.wait(timeout=30)
    child.stdout.close()
    time.sleep(0.05)
    assert [path.name for path in tmp_path.rglob("*")] == (["deep", "runs", "0002", "x"] if other else [])
