"""`dvgwm-runtime compile` and `--rebuild`, as a user gives them, on engines with ONNX Runtime's numbers."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from PIL import Image

from dvgwm.runtime.backends.tensorrt.engine import TensorrtBackend
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.commands.line import cli
from dvgwm.runtime.config import plugins
from dvgwm.runtime.errors import BundleIncompatibleError, ConfigError, EngineMemoryError
from dvgwm.runtime.residency import Residency, plan_residency

pytestmark = pytest.mark.ort


@pytest.fixture
def dvgwm(world, tmp_path, monkeypatch, capsys):
    """Run a command line with TensorRT's double in place of a GPU, and return the JSON of its last line, and its output."""
    backend = TensorrtBackend(world.module(), world.device)
    opened = plugins.open_backend
    monkeypatch.setattr(
        plugins, "open_backend", lambda name, threads: backend if name == "tensorrt" else opened(name, threads)
    )
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        cli.main([*map(str, arguments), "--cache-dir", str(tmp_path / "cache")], standalone_mode=False)
        shown = capsys.readouterr()
        return json.loads(shown.out.splitlines()[-1]), shown.out + shown.err

    return run


def test_compile_makes_every_engine_once_and_says_what_they_are(dvgwm, tmp_path):
    result, shown = dvgwm("compile", "--level", 1)
    assert result["command"] == "compile"
    assert result["compiled"] == list(result["engines"])
    assert result["folder"] == str(tmp_path / "cache" / "engines" / "tensorrt")
    assert all((tmp_path / "cache" / "engines" / "tensorrt" / name).is_file() for name in result["engines"].values())
    assert "engine 1 of 9" in shown
    assert "preview.onnx" in shown
    again, shown = dvgwm("compile", "--level", 1)
    assert (again["compiled"], again["engines"]) == ([], result["engines"])
    assert "compiled before" in shown
    other, _ = dvgwm("compile", "--level", 1, "--runs-on", "capability", "--streamed", "--no-refit", "--workspace", 2)
    assert other["compiled"] == list(result["engines"])


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_rebuilds_when_it_is_told_to(dvgwm, tmp_path, world):
    camera = tmp_path / "scene.png"
    Image.new("RGB", (96, 64), (90, 120, 150)).save(camera)
    plan = ("--plan-only", "--camera", camera, "--instruction", "put the banana into the bowl", "--backend", "tensorrt")
    with pytest.raises(BundleIncompatibleError) as caught:
        dvgwm(*plan, "--out", tmp_path / "none")
    assert caught.value.log_code == "ENGINE_UNBUILT"
    result, shown = dvgwm(*plan, "--rebuild", "--out", tmp_path / "run")
    assert result["backend"] == "tensorrt"
    assert "engine 9 of 9" in shown
    built = world.names().count("Builder.build_serialized_network")
    _, shown = dvgwm(*plan, "--out", tmp_path / "again")
    assert "engine 1 of" not in shown
    assert world.names().count("Builder.build_serialized_network") == built


def test_a_backend_that_compiles_nothing_says_so(dvgwm):
    with pytest.raises(
        ConfigError, match="onnx runs what is in the bundle and compiles nothing; wanted --backend tensorrt"
    ):
        dvgwm("compile", "--backend", "onnx")
    with pytest.raises(ConfigError, match="wanted --backend tensorrt"):
        dvgwm("evaluate", "--episodes", 1, "--rebuild")


def test_without_tensorrt_it_says_what_to_install(tmp_path):
    """The real command, as far as it goes on this machine."""
    command = [
        sys.executable,
        "-c",
        "from dvgwm.runtime.cli import main; main()",
        "compile",
        "--cache-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("E2 BACKEND_MISSING") or done.stderr.startswith("E2 CUDA_DEVICE")
    assert "pip install 'dvgwm[tensorrt]'" in done.stderr or "wanted GPU 0" in done.stderr


def test_weights_that_have_to_be_streamed_are_asked_for(dvgwm, tmp_path):
    """If a stage does not fit alone, the plan wants its engines compiled for streaming, and names the command."""
    manifest = read_bundle(plugins.shipped("a1_tiny")).manifest
    library = plugins.memory_use(manifest, "tensorrt")
    given_gb = next(
        gb for gb in np.arange(1.5, 1.7, 0.001) if _residency(manifest, gb * 1e9, library).streamed == ("preview.onnx",)
    )
    camera = tmp_path / "scene.png"
    Image.new("RGB", (96, 64), (90, 120, 150)).save(camera)
    plan = ("--plan-only", "--camera", camera, "--instruction", "put the banana into the bowl", "--backend", "tensorrt")
    plan += ("--rebuild", "--memory", f"{given_gb:.3f}")
    with pytest.raises(EngineMemoryError, match=r"preview\.onnx would fit into .* `dvgwm-runtime compile --streamed`"):
        dvgwm(*plan, "--out", tmp_path / "none")
    dvgwm("compile", "--streamed")
    result, _ = dvgwm(*plan, "--out", tmp_path / "run")
    assert result["backend"] == "tensorrt"


def _residency(manifest, memory_bytes, library):
    try:
        return plan_residency(manifest, memory_bytes, library)
    except EngineMemoryError:
        return Residency((), ())
