"""What paths may lead to, and what text may hold: a clear line, the right code, and nothing that is made is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COMMAND = [sys.executable, "-c", "from dvgwm.runtime.cli import main; main()"]


@pytest.fixture
def plan(make_bundle, tmp_path):
    """Run a plan in ``tmp_path / "work"`` with more words, and return what came of it."""
    Image.fromarray(np.full((48, 64, 3), 99, np.uint8)).save(tmp_path / "scene.png")
    bundle = make_bundle().path
    work = tmp_path / "work"
    work.mkdir()

    def run(*words, stdout=subprocess.PIPE, **environment):
        given = ["--backend", "fake", "--bundle", bundle, "--plan-only", "--camera", tmp_path / "scene.png"]
        return subprocess.run(
            [*COMMAND, *map(os.fsencode, [*given, "--instruction", "stack it", *words])],
            cwd=work, stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False,
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")} | environment,
        )  # fmt: skip

    run.work = work
    return run


def refused(done, exit_code, log_code):
    told = done.stderr.decode()
    assert done.returncode == exit_code, told
    assert told.startswith(f"E{exit_code} {log_code} ")
    assert len(told.splitlines()) == 1
    assert len(told) <= 2001
    return told


@pytest.mark.parametrize(
    ("out", "exit_code", "log_code"),
    [
        (".", 2, "OUT_PLACE"),
        ("..", 2, "OUT_PLACE"),
        ("/", 2, "OUT_PLACE"),
        ("/proc", 2, "OUT_PLACE"),
        ("", 2, "USAGE"),
        ("n" * 300, 50, "OUTPUT_WRITE"),
        ("n" * 250, 50, "OUTPUT_WRITE"),
        ("/dev/full", 2, "OUT_OCCUPIED"),
        ("/dev/full/x", 50, "OUTPUT_WRITE"),
        ("dangling", 2, "OUT_LINK"),
        ("leads", 2, "OUT_LINK"),
        ("pipe", 2, "OUT_OCCUPIED"),
        (b"\xff\xfe", 2, "ARGUMENT_TEXT"),
    ],
)
def test_a_place_that_is_none_for_a_run_is_refused_before_anything_is_made(plan, out, exit_code, log_code):
    (plan.work / "dangling").symlink_to("nowhere")
    (plan.work / "leads").symlink_to("run")
    os.mkfifo(plan.work / "pipe")
    refused(plan("--out", out), exit_code, log_code)
    assert {path.name for path in plan.work.iterdir()} == {"dangling", "leads", "pipe"}


@pytest.mark.parametrize("name", ["pipe", "pipe.png", "pipe.mp4", "null.png", "zero.mp4"])
def test_a_pipe_or_a_device_is_no_camera(plan, name):
    if name.startswith("pipe"):
        os.mkfifo(plan.work / name)
    else:
        (plan.work / name).symlink_to(f"/dev/{name.split('.')[0]}")
    refused(plan("--camera", name), 20, "CAMERA_KIND")


def test_a_pipe_inside_a_folder_of_images_is_none_either(plan):
    (plan.work / "images").mkdir()
    os.mkfifo(plan.work / "images" / "1.png")
    refused(plan("--camera", "images"), 20, "CAMERA_KIND")


def test_a_pipe_is_no_bundle(plan):
    os.mkfifo(plan.work / "pipe")
    refused(plan("--bundle", "pipe"), 10, "BUNDLE_MISSING")


@pytest.mark.parametrize("place", ["/dev/null", "pipe", ".", "nowhere/it.gif"])
def test_a_gif_that_cannot_be_written_is_told_before_the_plan_and_replaces_no_device(plan, place):
    os.mkfifo(plan.work / "pipe")
    done = plan("--gif", place)
    assert done.returncode == 50
    assert [path.name for path in plan.work.iterdir()] == ["pipe"]
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("size", [(9_000, 9_000), (20_000, 20_000)])
def test_a_large_image_is_refused_by_its_header(plan, size):
    Image.new("1", size).save(plan.work / "large.png")
    told = refused(plan("--camera", "large.png"), 20, "CAMERA_LARGE" if size[0] < 10_000 else "CAMERA_UNREADABLE")
    assert "pixels" in told


def test_more_threads_than_the_machine_has_are_refused_with_its_number(plan):
    assert f"wanted 1 to {os.cpu_count()} threads" in refused(plan("--threads", "200"), 2, "THREADS")


@pytest.mark.parametrize("option", ["--at", "--plan-time", "--guidance"])
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_a_number_that_is_not_finite_is_refused(plan, option, number):
    assert plan(option, number).returncode == 2


def test_a_plan_that_cannot_be_printed_is_kept(plan):
    with open("/dev/full", "wb") as full:
        refused(plan("--out", "run", stdout=full), 50, "OUTPUT_PRINT")
    assert json.loads((plan.work / "run" / "run.json").read_text())["command"] == "plan"


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]
)
def test_a_plan_is_shown_in_any_encoding(plan, environment):
    done = plan("--instruction", "stack the 🙂", "--out", "run", **environment)
    if environment.get("PYTHONUTF8") == "0":
        # Python itself takes what is no ASCII for stray bytes: the locale's fault, and said so.
        assert "is UTF-8, and the locale reads" in refused(done, 2, "ARGUMENT_TEXT")
        done = plan("--out", "run", **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["command"] == "plan"


def test_control_characters_are_escaped_wherever_they_are_shown(plan, make_bundle, tmp_path):
    name = "\x1b[31mred\x07\u202e"
    Image.fromarray(np.full((48, 64, 3), 99, np.uint8)).save(plan.work / f"{name}.png")
    done = plan("--camera", f"{name}.png", "--out", "run", "--instruction", f"stack {name}")
    assert done.returncode == 0, done.stderr
    page = (plan.work / "run" / "report.html").read_text("utf-8")
    for shown in (done.stdout.decode(), page):
        assert "\\x1b[31mred\\x07\\u202e" in shown
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "\\x1b" in refused(plan("--camera", f"{name}.txt"), 20, "CAMERA_MISSING")


def test_a_manifests_text_is_escaped_and_is_no_markup(make_bundle, tmp_path):
    path = make_bundle().path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"] |= {"weights": "\x1b[2J[/nothing] \ud800", "preset": "[red]\x07"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    done = subprocess.run([*COMMAND, "inspect", path], capture_output=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "\\x1b[2J[/nothing] \\ud800" in text
    assert "[red]\\x07" in text
    assert "\x1b" not in text


def test_what_replaces_a_run_is_kept_where_it_cannot_have_its_name(tmp_path, monkeypatch):
    from dvgwm.runtime.errors import RecordingError
    from dvgwm.runtime.files import whole_directory

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("old")
    rename = Path.rename

    def refuse(self, target):
        if self.name.endswith(".unfinished"):
            raise PermissionError(1, "Operation not permitted")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(RecordingError, match=r"everything is in .*\.run\.unfinished"),
        whole_directory(tmp_path / "run", "run.json", "run") as folder,
    ):
        (folder / "run.json").write_text("new")
    assert (tmp_path / "run" / "run.json").read_text() == "old"
    assert (tmp_path / ".run.unfinished" / "run.json").read_text() == "new"


def test_an_older_run_that_cannot_be_removed_is_in_nobodys_way(tmp_path, monkeypatch):
    from dvgwm.runtime import files

    remove = files.shutil.rmtree
    monkeypatch.setattr(
        files.shutil, "rmtree", lambda path, **more: None if ".old" in str(path) else remove(path, **more)
    )
    for text in ("first", "second", "third"):
        with files.whole_directory(tmp_path / "run", "run.json", "run") as folder:
            (folder / "run.json").write_text(text)
        assert (tmp_path / "run" / "run.json").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.old", ".run.old1", "run"]


def test_a_run_stopped_while_it_is_written_leaves_the_older_one(tmp_path):
    from dvgwm.runtime.files import whole_directory

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("old")

    def begin_and_stop(folder):
        (folder / "run.json").write_text("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), whole_directory(tmp_path / "run", "run.json", "run") as folder:
        begin_and_stop(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run" / "run.json").read_text() == "old"
