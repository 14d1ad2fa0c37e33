"""`dvgwm-train`: its settings files, its help, its errors."""

import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")
from dvgwm.runtime.errors import ConfigError
from dvgwm.training.config import CONFIGS, read_run


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.toml")))
def test_shipped_runs_are_read(name):
    run = read_run(name)
    assert run.preset.name == name
    told = tomllib.loads((CONFIGS / f"{name}.toml").read_text())
    for part in ("preview", "refiner", "policy", "joint"):
        assert getattr(run, part).steps == told[part]["steps"]


def test_the_papers_settings_are_the_defaults_of_full_size():
    preview, refiner = read_run("dvgwm_5b").preview, read_run("dvgwm_5b").refiner
    assert (preview.optimiser, preview.betas, preview.weight_decay, preview.clip) == ("adamw", (0.9, 0.95), 1e-4, 0.1)
    assert (preview.steps, preview.drop_text, preview.drop_image, preview.moving_weight) == (10_000, 0.1, 0.05, 0.0)
    assert (refiner.batch, refiner.learning_rate, refiner.lora_rank, refiner.shard) == (6, 1e-5, 0, True)
    assert read_run("dvgwm_5b").policy.pose_weight == 0.0
    assert read_run("dvgwm_5b").preset.drop_short


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[preview]\nsteps = 1\nstepps = 2", r"\[preview\] unknown key \$.stepps; there are steps, batch"),
        ("[preview]\nbatch = 2", r"\[preview\] .*missing required field `steps`"),
        ('[preview]\nsteps = "many"', r"\[preview\] Expected `int`, got `str` - at `\$.steps`"),
        ("[preview]\nsteps = 1\nbetas = [0.9]", r"\[preview\] .*length 2.*betas"),
        ("[oven]\nhot = true", "unknown oven; there are data"),
        ("preset = 'nothing'", "wanted a preset of"),
        ("[preview", "sizes.toml"),
    ],
)
def test_a_wrong_settings_file_is_told(tmp_path, text, message):
    whole = {
        "data": 'path = "x"',
        "preview": "steps = 1",
        "refiner": "steps = 1",
        "policy": "steps = 1",
        "tune": "steps = 1",
        "joint": "steps = 1",
    }
    rest = "\n".join(f"[{name}]\n{line}" for name, line in whole.items() if f"[{name}]" not in text)
    path = tmp_path / "sizes.toml"
    first, tables = (text, rest) if text.startswith("preset") else ("preset = 'a1_tiny'", f"{text}\n{rest}")
    path.write_text(f"{first}\n{tables}\n")
    with pytest.raises(ConfigError, match=message):
        read_run(str(path))


@pytest.mark.parametrize("case", ["a directory", "a pipe", "latin-1", "gigantic"])
def test_what_is_no_settings_file_is_told(tmp_path, case):
    path = tmp_path / "sizes.toml"
    if case == "a directory":
        path.mkdir()
    elif case == "a pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"# \xe9\n" if case == "latin-1" else b"#" * 1_000_000)
    with pytest.raises(ConfigError, match=r"sizes\.toml") as caught:
        read_run(str(path))
    assert caught.value.log_code == "RUN_SYNTAX"


def command(*words):
    return subprocess.run([sys.executable, "-m", "dvgwm.training", *words], capture_output=True, text=True, timeout=100)


@pytest.mark.thorough
def test_help_names_every_part_and_errors_have_one_line_and_a_code(tmp_path):
    shown = command("--help")
    assert shown.returncode == 0
    for part in ("data", "codec", "policy", "preview", "refiner", "imagine", "tune", "joint", "upper-bound", "export"):
        assert part in shown.stdout
    lost = command("upper-bound", "--out", str(tmp_path), "--episodes", "5")
    assert lost.returncode == 2
    assert lost.stderr.splitlines()[-1].startswith("E2 WEIGHTS_MISSING")
    assert "dvgwm-train policy" in lost.stderr
    assert command("data", "--episodes", "7", "--out", str(tmp_path / "d")).returncode == 2
    assert command("policy", "--run", "nothing").returncode == 2


def test_a_signal_in_the_middle_is_told_in_one_line(tmp_path):
    pytest.importorskip("mujoco", reason="the train extra is not installed")
    words = ["data", "--episodes", "50", "--workers", "1", "--out", str(tmp_path / "set")]
    child = subprocess.Popen([sys.executable, "-m", "dvgwm.training", *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "set" / "seed").exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 143, stderr
    assert stderr.splitlines()[-1].startswith("E143 TERMINATED stopped by a signal; run it again to go on")
    assert "Traceback" not in stderr
