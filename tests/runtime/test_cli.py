"""The command as a user runs it: results on disk, one JSON line, and for everything wrong one line and an exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvgwm.runtime.bundle.manifest import dump

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from dvgwm.runtime.cli import main; main()"]


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=120,
        env=os.environ | {"XDG_CACHE_HOME": str(cwd / "cache")} | environment,
    )


@pytest.fixture
def fake(make_bundle):
    return ["--backend", "fake", "--bundle", make_bundle().path]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(path)
    return path


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "cache" not in path.parts)


@pytest.mark.sim
def test_an_episode_in_simulation_leaves_video_profile_trace_report_and_json(fake, tmp_path):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    done = run("--robot", "galaxea_a1", *fake, "--max-actions", 8, "--out", "run", "--gif", "it.gif", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["simulated"]
    assert facts["actions"] == 8
    assert facts["trained"] is False
    assert facts["paper"].startswith("not comparable")
    assert sum(facts["stages_s"].values()) == pytest.approx(facts["wall_s"])
    for part in ("preview", "unattributed", "88.7 s", "untrained", "sum = wall time"):
        assert part in done.stdout
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert made - {"plan.mp4", "plan.gif"} == {"profile.json", "trace.json", "report.html", "run.json", "motion.csv"}
    with Image.open(tmp_path / "it.gif") as gif:
        assert gif.n_frames >= 9
    assert {"traceEvents"} <= set(json.loads((tmp_path / "run" / "trace.json").read_text()))
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == facts


@pytest.mark.sim
def test_an_episode_that_the_gate_stopped_is_shown_and_ends_with_its_code(make_bundle, tmp_path):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    bundle = make_bundle()
    action = bundle.manifest.action
    far = replace(action, lower=tuple(q + 1.0 for q in action.lower), upper=tuple(q + 1.0 for q in action.upper))
    (bundle.path / "manifest.json").write_bytes(dump(replace(bundle.manifest, action=far)))
    words = ("--bundle", bundle.path, "--backend", "fake", "--max-actions", 8)
    done = run("--robot", "galaxea_a1", *words, "--out", "run", cwd=tmp_path)
    assert done.returncode == 42
    assert done.stderr.splitlines()[-1].startswith("E42 MOTION_LEAP the chunk begins too far")
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["stopped"], facts["solved"], facts["actions"]) == ("MOTION_LEAP", False, 0)
    assert "stopped: MOTION_LEAP" in (tmp_path / "run" / "report.html").read_text()
    done = run("evaluate", *words, "--episodes", 5, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["stopped"], facts["success_rate"]) == ({"MOTION_LEAP": 5}, 0.0)


@pytest.mark.sim
def test_same_seed_same_actions_other_seed_another_layout(fake, tmp_path):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    videos = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        done = run("--robot", "galaxea_a1", *fake, "--max-actions", 8, "--out", name, "--seed", seed, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (video,) = (tmp_path / name).glob("plan.*")
        videos.append(video.read_bytes())
    assert videos[0] == videos[1]
    assert videos[0] != videos[2]


@pytest.mark.sim
def test_evaluate_spreads_episodes_over_tasks_and_prints_one_json_line(fake, tmp_path):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    done = run("evaluate", *fake, "--episodes", 5, "--max-actions", 8, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    facts = json.loads(line)
    assert facts["episodes"] == 5
    rates = facts["success_rate_by_task"]
    assert len(rates) == 5
    assert facts["success_rate"] == sum(rates.values()) / 5
    assert facts["stopped"] == {}


def test_a_plan_from_a_recording_needs_no_robot(fake, image, tmp_path):
    done = run("--plan-only", "--camera", image, "--instruction", "stack it", *fake, "--out", "plan", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["command"] == "plan"
    assert facts["actions"] == 8
    assert facts["fitted"] == "64 x 48, cropped to 64 x 43, resampled to 48 x 32"
    assert (tmp_path / "plan" / "report.html").is_file()


@pytest.mark.video
def test_a_plan_from_another_labs_clip_shows_it_beside_the_imagined_frames(fake, tmp_path):
    clip = ROOT.parent / "shared" / "data" / "video" / "openvla_put_blue_cup_on_plate_reattempt.mp4"
    if not clip.is_file():
        pytest.skip("no folder of other labs' clips beside this checkout")
    av = pytest.importorskip("av", reason="PyAV is not installed")
    done = run(
        "--plan-only",
        "--camera",
        clip,
        "--instruction",
        "put the cup on the plate",
        "--at",
        2,
        *fake,
        "--out",
        "p",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["recorded_frames"] == 9
    with av.open(str(tmp_path / "p" / "plan.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    right = [frame[20:, frame.shape[1] // 2 + 8 :].astype(int) for frame in frames]
    assert len(frames) == 9
    assert np.abs(right[0] - right[8]).mean() > 1, "the recording moves"


def test_runs_are_numbered_and_a_run_may_be_replaced(fake, image, tmp_path):
    plan = ["--plan-only", "--camera", image, "--instruction", "stack it", *fake]
    for _ in range(2):
        assert run(*plan, cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["0001", "0002"]
    assert run(*plan, "--out", "runs/0001", cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["0001", "0002"]


def test_inspect_prints_for_people_and_machines(make_bundle, tmp_path):
    bundle = make_bundle()
    done = run("inspect", bundle.path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "every file verified" in done.stdout
    assert "a [rad]" in done.stdout, "units are no markup"
    assert json.loads(done.stdout.splitlines()[-1])["stages"][0] == "encode_text"
    (bundle.path / "refine.onnx").write_bytes(b"spoiled")
    done = run("inspect", bundle.path, cwd=tmp_path)
    assert done.returncode == 11
    assert done.stderr.startswith("E11 BUNDLE_SIZE ")


def test_a_reader_that_leaves_is_no_fault_of_ours(make_bundle, tmp_path):
    shell = " ".join(
        [*(f"'{part}'" for part in COMMAND), "inspect", str(make_bundle().path), "| true; exit ${PIPESTATUS[0]}"]
    )
    done = subprocess.run(
        ["bash", "-c", f"sleep 0.2; {shell}"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode in (0, 50)
    assert "Traceback" not in done.stderr


def test_doctor_and_help_teach(tmp_path):
    assert json.loads(run("doctor", cwd=tmp_path).stdout.splitlines()[-1])["command"] == "doctor"
    text = run("--help", cwd=tmp_path).stdout
    assert "Examples:" in text
    assert "--plan-only" in text


PLAN = ["--plan-only", "--camera", "scene.png", "--instruction", "stack it"]
LIVE = ["--robot", "galaxea_a1", "--live", "--arm", "localhost:9", "--camera", "scene.png", "--instruction", "stack it"]
WRONG = {
    "nothing asked": ([], 2, "USAGE"),
    "unknown option": (["--robto", "x"], 2, "USAGE"),
    "an option like --live": (["--robot", "galaxea_a1", "--view"], 2, "USAGE"),
    "not a number": (["--robot", "galaxea_a1", "--seed", "x"], 2, "USAGE"),
    "unknown robot": (["--robot", "r2d2"], 2, "ROBOT_UNKNOWN"),
    "unknown task": (["--robot", "galaxea_a1", "--task", "fly"], 2, "TASK_UNKNOWN"),
    "unknown object": (["--robot", "galaxea_a1", "--task", "push_cube:piano"], 2, "TASK_TARGET"),
    "live without an address": (["--robot", "galaxea_a1", "--live"], 2, "LIVE_OPTION"),
    "live and simulated": ([*LIVE, "--task", "fruit_in_bowl"], 2, "USAGE"),
    "a dry run that is not live": (["--robot", "galaxea_a1", "--dry-run"], 2, "USAGE"),
    "live with nobody there": (LIVE, 2, "ARM_PERSON"),
    "live with another camera": ([*LIVE, "--dry-run", "--camera", "webcam"], 2, "CAMERA_UNKNOWN"),
    "live at no address": ([*LIVE, "--dry-run", "--arm", "ftp://host"], 2, "ARM_ADDRESS"),
    "live with settings that are none": ([*LIVE, "--dry-run", "--arm-settings", "absent.toml"], 2, "ARM_SETTINGS"),
    "live, and no bundle": ([*LIVE, "--dry-run", "--bundle", "absent"], 10, "BUNDLE_MISSING"),
    "unknown backend": ([*PLAN, "--backend", "abacus"], 2, "BACKEND_UNKNOWN"),
    "unknown sampler": ([*PLAN, "--sampler", "magic"], 2, "SAMPLER_UNKNOWN"),
    "sampler of another prediction": ([*PLAN, "--sampler", "euler_flow"], 2, "SAMPLER_FAMILY"),
    "zero steps": ([*PLAN, "--steps", "0"], 2, "SAMPLER_STEPS"),
    "minus one step": ([*PLAN, "--refine-steps", "-1"], 2, "SAMPLER_STEPS"),
    "guidance not a number": ([*PLAN, "--guidance", "nan"], 2, "SAMPLER_GUIDANCE"),
    "no recording named": (["--plan-only", "--instruction", "x"], 2, "CAMERA_OPTION"),
    "recording missing": ([*PLAN[:2], "none.mp4", *PLAN[3:]], 20, "CAMERA_MISSING"),
    "recording unreadable": ([*PLAN[:2], "broken.png", *PLAN[3:]], 20, "CAMERA_UNREADABLE"),
    "recording of another kind": ([*PLAN[:2], "notes.txt", *PLAN[3:]], 20, "CAMERA_KIND"),
    "start past the end": ([*PLAN, "--at", "9"], 20, "CAMERA_EMPTY"),
    "no instruction": (PLAN[:3], 2, "INSTRUCTION_EMPTY"),
    "empty instruction": ([*PLAN[:4], "  "], 2, "INSTRUCTION_EMPTY"),
    "long instruction": ([*PLAN[:4], "word " * 40], 2, "INSTRUCTION_LONG"),
    "no bundle there": ([*PLAN, "--bundle", "nowhere"], 10, "BUNDLE_MISSING"),
    "output occupied": ([*PLAN, "--out", "mine"], 2, "OUT_OCCUPIED"),
    "output unwritable": ([*PLAN, "--out", "notes.txt/run"], 50, "OUTPUT_WRITE"),
    "cache unwritable": ([*PLAN, "--cache-dir", "notes.txt/cache"], 50, "CACHE_WRITE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_gets_one_line_an_exit_code_and_leaves_nothing(fake, image, tmp_path, case):
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    before = listing(tmp_path)
    arguments, exit_code, log_code = WRONG[case]
    given = [] if case == "nothing asked" else [o for o in fake if "--bundle" not in arguments or o in fake[:2]]
    if "--backend" in arguments:
        given = fake[2:]
    done = run(*given, *arguments, cwd=tmp_path)
    assert done.returncode == exit_code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert errors[0].startswith(f"E{exit_code} {log_code} ")
    assert len(errors) == 1
    assert listing(tmp_path) == before


def test_without_a_bundle_anywhere_it_says_how_to_build_one(image, tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    if (ROOT / "runtime" / "bundles" / "a1_tiny" / "manifest.json").is_file():
        pytest.skip("a trained bundle ships with this version")
    done = run(*PLAN, cwd=tmp_path)
    assert done.returncode == 10
    assert "python export/build_engines.py" in done.stderr


def test_debug_shows_the_traceback_after_the_line(fake, tmp_path):
    done = run("--robot", "r2d2", *fake, "--debug", cwd=tmp_path)
    assert done.stderr.splitlines()[0].startswith("E2 ROBOT_UNKNOWN")
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_stops_cleanly_and_leaves_nothing(fake, image, tmp_path, number, exit_code):
    before = listing(tmp_path)
    command = [*COMMAND, *PLAN, *fake, "--steps", "1000", "--refine-steps", "1000", "--out", "run"]
    child = subprocess.Popen(
        list(map(str, command)),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        # A test run in a shell's background inherits an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / ".run.unfinished").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(number)
    _, stderr = child.communicate(timeout=30)
    assert child.returncode == exit_code, stderr
    assert stderr.startswith(f"E{exit_code} ")
    assert "Traceback" not in stderr
    assert listing(tmp_path) == before
