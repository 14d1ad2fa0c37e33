"""Operators in other words: the same numbers, in operators faster in ONNX Runtime on a CPU."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from torch import nn
from torch.nn import functional

from dvgwm.export import onnx_graph
from dvgwm.export.onnx_graph import check_graph, export_onnx
from dvgwm.runtime.config.plugins import shipped

pytestmark = [pytest.mark.torch, pytest.mark.ort]


def exported(module, x, path, dynamic=None):
    """Return the types of the graph's operators, and a call to run it."""
    export_onnx(module, {"x": x}, ("y",), dynamic or {}, path)
    check_graph(path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    return kinds, lambda values: session.run(None, {"x": values})[0]


@pytest.fixture(scope="module")
def numbers():
    """Numbers of every size of float32, both signs, and some about the cap."""
    sizes = np.float32(2.0) ** np.arange(-126, 127, dtype=np.float32)
    near = np.linspace(-25, 25, 100_001, dtype=np.float32)
    return np.concatenate([sizes, -sizes, near, np.nextafter(np.float32([20, 20]), np.float32([0, 40])), [0.0]]).astype(
        np.float32
    )


def test_mish_is_nearer_to_the_truth_than_torch_and_than_its_own_operator(numbers, tmp_path, monkeypatch):
    x = torch.from_numpy(numbers)
    truth = functional.mish(x.double()).numpy()
    scale = np.maximum(np.abs(truth), 1e-6)
    kinds, run = exported(nn.Mish(), x, tmp_path / "ours.onnx")
    assert kinds <= {"Min", "Exp", "Add", "Mul", "Div", "Constant"}
    ours = np.abs(run(numbers) - truth)
    assert (ours / scale).max() < 1e-6
    monkeypatch.setattr(onnx_graph, "TRANSLATIONS", {})
    kinds, run = exported(nn.Mish(), x, tmp_path / "plain.onnx")
    assert kinds == {"Mish"}, "the control: without the translation it is the operator"
    assert ours.max() <= np.abs(run(numbers) - truth).max()


def test_mish_of_no_number_is_none(tmp_path):
    x = torch.zeros(3)
    _, run = exported(nn.Mish(), x, tmp_path / "g.onnx")
    with np.errstate(invalid="ignore"):
        made = run(np.float32([np.nan, np.inf, 1.0]))
    assert np.isnan(made[0])
    assert np.isposinf(made[1])


CONVOLUTIONS = [
    ({"in_channels": 32, "out_channels": 48, "kernel_size": 5, "padding": 2}, True),
    ({"in_channels": 16, "out_channels": 8, "kernel_size": 3, "padding": 1, "bias": False}, True),
    ({"in_channels": 7, "out_channels": 32, "kernel_size": 5, "padding": 2}, False),
    ({"in_channels": 32, "out_channels": 32, "kernel_size": 3, "stride": 2, "padding": 1}, False),
    ({"in_channels": 32, "out_channels": 8, "kernel_size": 1}, False),
    ({"in_channels": 32, "out_channels": 32, "kernel_size": 5, "padding": 1}, False),
    ({"in_channels": 32, "out_channels": 32, "kernel_size": 5, "padding": 4, "dilation": 2}, False),
    ({"in_channels": 32, "out_channels": 32, "kernel_size": 5, "padding": 2, "groups": 2}, False),
    ({"in_channels": 256, "out_channels": 256, "kernel_size": 5, "padding": 2}, False),
]


@pytest.mark.parametrize(("settings", "is_product"), CONVOLUTIONS)
def test_a_small_convolution_is_one_product_and_every_one_is_right(settings, is_product, tmp_path):
    torch.manual_seed(0)
    module = nn.Conv1d(**settings).requires_grad_(False)
    kinds, run = exported(module, torch.randn(3, settings["in_channels"], 16), tmp_path / "g.onnx", {"x": "chunks"})
    assert ("MatMul" in kinds, "Conv" in kinds) == (is_product, not is_product)
    for count in (1, 44):
        x = torch.randn(count, settings["in_channels"], 16)
        wanted = module(x).numpy()
        np.testing.assert_allclose(run(x.numpy()), wanted, atol=1e-5)
        module.weight.copy_(module.weight.flip(2))
        assert settings["kernel_size"] == 1 or np.abs(module(x).numpy() - wanted).max() > 1e-2, "the control"
        module.weight.copy_(module.weight.flip(2))


def test_the_policy_that_ships_is_so():
    kinds = [
        node.op_type for node in onnx.load(shipped("a1_tiny") / "policy.onnx", load_external_data=False).graph.node
    ]
    assert not {"Mish", "Softplus"} & set(kinds)
    assert kinds.count("MatMul") == 16
    assert kinds.count("Conv") == 6, "the first, three that skip, one that halves, the last"
