"""Weights that graphs read from their networks' own files: the same numbers, kept once, in half the space."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from safetensors.torch import load_file

from dvgwm.export.onnx_graph import check_graph, export_onnx
from dvgwm.export.shared_weights import places, weights_of
from dvgwm.models.weights import save_exactly

pytestmark = [pytest.mark.torch, pytest.mark.ort]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.deep = torch.nn.Linear(40, 60), torch.nn.Linear(60, 40)
        self.conv = torch.nn.Conv1d(40, 40, 3, padding=1)

    def forward(self, x):
        return self.conv(self.deep(torch.relu(self.wide(x))).mT)


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = Net()
    with torch.no_grad():
        for name in ("wide", "conv"):
            getattr(made, name).weight.copy_(getattr(made, name).weight.half())
    return made


def run(path, x):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})[0]


def test_a_graph_reads_its_weights_from_the_networks_file(net, tmp_path):
    save_exactly(net, tmp_path / "net.safetensors")
    kept = load_file(tmp_path / "net.safetensors")
    assert kept["wide.weight"].dtype == kept["conv.weight"].dtype == torch.float16
    assert kept["deep.weight"].dtype == torch.float32, "halves would lose something"
    x = torch.randn(1, 40, 40)
    weights = weights_of(net, {"net": net}, {"net": places([tmp_path / "net.safetensors"])})
    export_onnx(net, {"x": x}, ("y",), {}, tmp_path / "whole.onnx")
    export_onnx(net, {"x": x}, ("y",), {}, tmp_path / "small.onnx", weights=weights)
    check_graph(tmp_path / "small.onnx")
    whole, small = ((tmp_path / name).stat().st_size for name in ("whole.onnx", "small.onnx"))
    assert whole > 4 * (2 * 2400 + 4800)
    assert small < 5000
    with torch.no_grad():
        wanted = net(x).numpy()
    assert np.array_equal(run(tmp_path / "small.onnx", x), run(tmp_path / "whole.onnx", x))
    assert np.abs(run(tmp_path / "small.onnx", x) - wanted).max() < 1e-5


def test_what_the_file_holds_is_what_the_graph_computes_with(net, tmp_path):
    save_exactly(net, tmp_path / "net.safetensors")
    x = torch.randn(1, 40, 40)
    weights = weights_of(net, {"net": net}, {"net": places([tmp_path / "net.safetensors"])})
    export_onnx(net, {"x": x}, ("y",), {}, tmp_path / "net.onnx", weights=weights)
    before = run(tmp_path / "net.onnx", x)
    with torch.no_grad():
        net.wide.weight.mul_(2.0)
    save_exactly(net, tmp_path / "net.safetensors")
    after = run(tmp_path / "net.onnx", x)
    assert np.abs(after - before).max() > 1e-2
    with torch.no_grad():
        assert np.abs(after - net(x).numpy()).max() < 1e-5


def test_weights_that_are_stored_nowhere_stay_in_the_graph_and_no_graph_tells_where_it_was_made(net, tmp_path):
    other, x = Net(), torch.randn(1, 40, 40)
    save_exactly(other, tmp_path / "other.safetensors")
    weights = weights_of(net, {"net": other}, {"net": places([tmp_path / "other.safetensors"])})
    assert weights == {}
    export_onnx(net, {"x": x}, ("y",), {}, tmp_path / "net.onnx", weights=weights)
    model = onnx.load(tmp_path / "net.onnx")
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert b"/tests/" not in (tmp_path / "net.onnx").read_bytes()
