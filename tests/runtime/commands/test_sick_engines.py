"""Engines of the shipped bundle that fail, hang or hold what is no number, as the command line meets them."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from dvgwm.runtime.config.plugins import DEFAULT_BUNDLE, shipped

COMMAND = [sys.executable, "-c", "from dvgwm.runtime.cli import main; main()"]
pytestmark = pytest.mark.ort
onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")


@pytest.fixture
def bundle(tmp_path):
    """A copy of the shipped bundle."""
    return shutil.copytree(shipped(DEFAULT_BUNDLE), tmp_path / "bundle")


def replace_file(bundle, name, data):
    """Write a file of the bundle and make the manifest agree with it."""
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def encoder(nodes, initializers=()):
    """Return a graph with the interface of encode_low.onnx, whose nodes make ``number`` from the sum of the image."""
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["floats"], to=kinds.FLOAT),
            helper.make_node("ReduceSum", ["floats"], ["sum"], keepdims=0),
            *nodes,
            helper.make_node("Expand", ["number", "shape"], ["latents"]),
        ],
        "sick",
        [helper.make_tensor_value_info("image", kinds.UINT8, [1, 64, 96, 3])],
        [helper.make_tensor_value_info("latents", kinds.FLOAT, [1, 1, 80, 8, 12])],
        [helper.make_tensor("shape", kinds.INT64, [5], [1, 1, 80, 8, 12]), *initializers],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def failing():
    helper, kinds = onnx.helper, onnx.TensorProto
    return encoder(
        [
            helper.make_node("Cast", ["sum"], ["index"], to=kinds.INT64),
            helper.make_node("Add", ["index", "far"], ["beyond"]),
            helper.make_node("Gather", ["table", "beyond"], ["number"]),
        ],
        [helper.make_tensor("far", kinds.INT64, [], [1000]), helper.make_tensor("table", kinds.FLOAT, [2], [0.0, 1.0])],
    )


def hanging():
    helper, kinds = onnx.helper, onnx.TensorProto
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Cos", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("turn", kinds.INT64, []),
            helper.make_tensor_value_info("go", kinds.BOOL, []),
            helper.make_tensor_value_info("x", kinds.FLOAT, []),
        ],
        [helper.make_tensor_value_info("goes", kinds.BOOL, []), helper.make_tensor_value_info("y", kinds.FLOAT, [])],
    )
    return encoder(
        [helper.make_node("Loop", ["turns", "", "sum"], ["number"], body=body)],
        [helper.make_tensor("turns", kinds.INT64, [], [2**62])],
    )


def not_finite():
    return encoder([onnx.helper.make_node("Div", ["sum", "zero"], ["number"])], [
        onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT, [], [0.0])
    ])  # fmt: skip


def words(bundle, tmp_path):
    Image.fromarray(np.full((64, 96, 3), 9, np.uint8)).save(tmp_path / "scene.png")
    (tmp_path / "work").mkdir()
    return ["--bundle", bundle, "--plan-only", "--camera", tmp_path / "scene.png", "--instruction", "push"]


def run(folder, *arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False, cwd=folder,
        env=os.environ | {"XDG_CACHE_HOME": f"{folder}.cache"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("graph", "start"),
    [(failing, "E31 ENGINE_FAILED encode_low.onnx failed: "), (not_finite, "E32 OUTPUT_NONFINITE stage encode_low: ")],
)
def test_an_engine_that_fails_is_told_in_one_line_and_leaves_nothing(bundle, tmp_path, graph, start):
    replace_file(bundle, "encode_low.onnx", graph())
    given = words(bundle, tmp_path)
    done = run(tmp_path / "work", *given)
    assert done.stderr.startswith(start)
    assert len(done.stderr.splitlines()) == 1, "the library's own log is for --debug"
    assert done.returncode == int(start[1:3])
    assert list((tmp_path / "work").iterdir()) == []
    deep = run(tmp_path / "work", "inspect", bundle, "--deep")
    assert deep.returncode == done.returncode
    assert "encode_low.onnx" in deep.stderr
    assert run(tmp_path / "work", "inspect", bundle).returncode == 0


def test_the_librarys_own_log_is_shown_with_debug(bundle, tmp_path):
    replace_file(bundle, "encode_low.onnx", failing())
    done = run(tmp_path, *words(bundle, tmp_path), "--debug")
    assert done.returncode == 31
    assert "[E:onnxruntime" in done.stderr
    assert "Traceback" in done.stderr


@pytest.mark.few(1)
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_engine_that_hangs_is_ended_by_a_signal(bundle, tmp_path, number, exit_code):
    replace_file(bundle, "encode_low.onnx", hanging())
    child = subprocess.Popen(
        [*COMMAND, *map(str, words(bundle, tmp_path))],
        cwd=tmp_path / "work", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    time.sleep(3.0)  # by then it hangs; before, the signal ends it all the same
    assert child.poll() is None
    told_at = time.monotonic()
    child.send_signal(number)
    _, stderr = child.communicate(timeout=60)
    assert time.monotonic() - told_at < 10  # 1.1 s on a machine that has nothing else to do
    assert child.returncode == exit_code
    assert len(stderr.splitlines()) == 1
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("text.safetensors", "encode_text"),
        ("low_codec.safetensors", "encode_low"),
        ("codec.safetensors", "encode_high"),
        ("preview.safetensors", "preview"),
        ("waypoints.safetensors", "preview"),
        ("refiner.safetensors", "refine"),
        ("frame_encoder.safetensors", "act"),
        ("policy.safetensors", "act"),
    ],
)
def test_weights_that_are_not_finite_name_their_stage(bundle, tmp_path, name, stage):
    data = bytearray((bundle / name).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    weights = np.frombuffer(data, np.float16, offset=start)
    weights[:] = np.nan
    replace_file(bundle, name, bytes(data))
    done = run(tmp_path / "work", *words(bundle, tmp_path))
    assert done.returncode == 32
    assert f" stage {stage}: " in done.stderr
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["decode_first.onnx", "decode_next.onnx"])
def test_a_decoder_that_gives_no_numbers_is_seen_though_bytes_are_always_finite(bundle, tmp_path, name):
    model = onnx.load(str(bundle / name), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and not tensor.external_data:
            spoiled = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(onnx.numpy_helper.from_array(spoiled, tensor.name))
    replace_file(bundle, name, model.SerializeToString())
    done = run(tmp_path / "work", *words(bundle, tmp_path))
    assert done.returncode == 32
    assert " stage decode: " in done.stderr
