"""A graph that gives a piece of every layer keeps the pieces, not the layers."""

import subprocess
import sys
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from onnx import TensorProto, helper

from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.backends.onnx.engine import session_options
from dvgwm.runtime.types import TensorSpec

pytestmark = [
    pytest.mark.ort,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak there"),
]
LAYERS, NUMBERS = 12, 8_000_000
RUN = """
import sys
import numpy as np, onnxruntime as ort
from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.backends.onnx.engine import OnnxEngine, open_backend
from dvgwm.runtime.types import TensorSpec
from pathlib import Path

path, layers, numbers, whose = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
spec = EngineSpec(
    path.name,
    (TensorSpec("x", (numbers,), "float32"),),
    (TensorSpec("y", (1,), "float32"), *(TensorSpec(f"piece{i}", (1,), "float32") for i in range(layers))),
    {}, 0.0, "",
)
engine = open_backend(1).load(path, spec) if whose == "ours" else OnnxEngine(path, spec, ort.SessionOptions())
outputs = engine.run({"x": np.ones(numbers, np.float32)})
assert float(outputs["y"][0]) == layers + 1.0
status = Path("/proc/self/status").read_text()  # a child's ru_maxrss begins with its parent's
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


def peak_kb(path, whose):
    command = [sys.executable, "-c", RUN, str(path), str(LAYERS), str(NUMBERS), whose]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_layers_are_freed_once_their_pieces_are_cut(tmp_path):
    nodes, outputs, last = [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])], "x"
    for index in range(LAYERS):
        nodes.append(helper.make_node("Add", [last, "one"], [f"layer{index}"]))
        nodes.append(helper.make_node("Gather", [f"layer{index}", "first"], [f"piece{index}"]))
        outputs.append(helper.make_tensor_value_info(f"piece{index}", TensorProto.FLOAT, [1]))
        last = f"layer{index}"
    nodes.append(helper.make_node("Gather", [last, "first"], ["y"]))
    graph = helper.make_graph(
        nodes, "pieces", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [NUMBERS])], outputs,
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]), helper.make_tensor("first", TensorProto.INT64, [1], [0])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "pieces.onnx")
    ours, default = (peak_kb(tmp_path / "pieces.onnx", whose) for whose in ("ours", "default"))
    assert default - ours > LAYERS // 2 * NUMBERS * 4 / 1024, (ours, default)


def test_only_an_engine_of_gigabytes_keeps_no_memory_for_its_next_run():
    small, large = (
        TensorSpec("y", (1, 480, 720, 3), "uint8"),
        TensorSpec("next__conv", (1, 256, 2, 960, 720), "float32"),
    )
    for output, keeps in ((small, True), (large, False)):
        options = session_options(EngineSpec("decode_next.onnx", (), (output, small), {}, 0.0, ""), 1)
        assert (options.enable_cpu_mem_arena, options.enable_mem_reuse) == (keeps, keeps)
