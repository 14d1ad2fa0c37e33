"""The torch backend: packages compiled here, on the CPU as on a GPU."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")

from dvgwm.export.aoti import export_package, traced, write_weights
from dvgwm.export.interface import engine_spec
from dvgwm.kernels.modulate import modulate
from dvgwm.models.graph import Graph
from dvgwm.runtime.backends.host import HostBackend
from dvgwm.runtime.backends.torch.engine import TorchBackend, _laid, open_backend
from dvgwm.runtime.errors import BundleIncompatibleError, InternalError, ShapeError
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec

pytestmark = [pytest.mark.torch, pytest.mark.slow]


class Network(torch.nn.Module):
    """A linear layer, one of our operators, and a convolution with its weight in channels last."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(16, 16)
        self.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.conv.weight.data = torch.randn(4, 1, 3, 3).contiguous(memory_format=torch.channels_last)
        self.register_buffer("table", torch.randn(2, 3, 16))

    def forward(self, tokens, past):
        normed = modulate(
            self.linear(tokens), None, self.table, self.table, self.linear.weight[0], self.linear.bias, 1, 1e-5, False
        )[1]
        image = self.conv(normed[:, None]) + past
        return image.sum(1), image


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder, module = tmp_path_factory.mktemp("package"), Network().eval()
    # Strides unlike a contiguous tensor's: the package has to get them whatever it is given.
    past = torch.randn(2, 4, 3, 16).contiguous(memory_format=torch.channels_last)
    graph = Graph(
        "net",
        module,
        {"tokens": torch.randn(2, 3, 16), "past": past},
        ("sum", "next"),
        carry={"next": "past"},
        suffix="pt2",
    )
    program = traced(module, graph.inputs, graph.dynamic, torch.device("cpu"))
    export_package(program, folder / graph.file)
    write_weights(program, graph.inputs, folder / graph.weights)
    return folder, graph, engine_spec(graph)


@pytest.fixture
def engine(package):
    folder, graph, spec = package
    return TorchBackend(torch.device("cpu")).load(folder / graph.file, spec)


def test_a_package_is_its_module(package, engine):
    _, graph, _ = package
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        inputs = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in graph.inputs.items()}
        with torch.no_grad():
            wanted = graph.module(*inputs.values())
        outputs = engine.run(inputs)
        assert torch.allclose(outputs["sum"], wanted[0], atol=1e-5)
        assert torch.allclose(outputs["next"], wanted[1], atol=1e-5)
    assert not torch.allclose(outputs["next"], engine.run(inputs | {"past": inputs["past"] + 1})["next"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a capture works")
def test_a_package_that_cannot_be_captured_runs_without_and_says_why(package, engine):
    _, graph, _ = package
    inputs = dict(graph.inputs)
    before = {name: tensor.clone() for name, tensor in engine.run(inputs).items()}
    with pytest.warns(RuntimeWarning, match=r"net\.pt2 runs without a CUDA graph, and slower for it: .*CUDA"):
        engine._capture(list(inputs.values()))
    assert "CUDA" in engine.uncaptured
    after = engine.run(inputs)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize(
    "change", [{"shape": (2, 3, 17)}, {"shape": ("branches", 3, 16)}, {"shape": (6, 16)}, {"dtype": "float16"}]
)
def test_a_package_that_was_compiled_for_other_tensors_than_stated_is_refused(package, side, change):
    folder, graph, spec = package
    tensors = getattr(spec, side)
    stated = replace(spec, **{side: (replace(tensors[0], **change), *tensors[1:])})
    with pytest.raises(BundleIncompatibleError, match="it was compiled for") as caught:
        TorchBackend(torch.device("cpu")).load(folder / graph.file, stated)
    assert caught.value.log_code == "ENGINE_INTERFACE"


@pytest.mark.gpu
def test_a_package_on_the_gpu_gives_the_same_captured_or_not(tmp_path):
    device, module = torch.device("cuda"), Network().eval()
    examples = {"tokens": torch.randn(2, 3, 16), "past": torch.randn(2, 4, 3, 16)}
    graph = Graph("net", module, examples, ("sum", "next"), suffix="pt2")
    program = traced(module, examples, {}, device)
    export_package(program, tmp_path / graph.file)
    write_weights(program, examples, tmp_path / graph.weights)
    engine = TorchBackend(device).load(tmp_path / graph.file, engine_spec(graph))
    plain = []
    for captured in (False, True):
        if captured:
            engine.warmup({name: tuple(tensor.shape) for name, tensor in examples.items()})
            assert len(engine._graphs) == 1
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            inputs = {name: torch.randn(t.shape, generator=generator).cuda() for name, t in examples.items()}
            with torch.no_grad():
                wanted = module(*inputs.values())[0]
            made = engine.run(inputs)["sum"].clone()
            assert torch.allclose(made, wanted, atol=1e-4)
            plain.append(made)
    assert torch.equal(plain[0], plain[2])
    assert torch.equal(plain[1], plain[3])
    assert not torch.equal(plain[0], plain[1])


def test_the_weights_are_apart_with_their_strides(package):
    folder, graph, _ = package
    assert (folder / graph.weights).stat().st_size > 1000
    kept = TorchBackend(torch.device("cpu"))._weights_of(folder / graph.weights)
    assert kept.tensors["conv.weight"].stride() == graph.module.conv.weight.stride()
    assert torch.equal(kept.tensors["conv.weight"], graph.module.conv.weight)
    assert kept.layouts["past"] == graph.inputs["past"].stride()


def test_strides_that_fit_are_not_copied():
    tensor = torch.randn(1, 4, 3, 16).contiguous(memory_format=torch.channels_last)
    assert _laid(tensor, tensor.stride()) is tensor
    assert _laid(tensor, (999, *tensor.stride()[1:])) is tensor  # the stride of an axis of one
    moved = _laid(tensor.contiguous(), tensor.stride())
    assert moved.stride() == tensor.stride()
    assert torch.equal(moved, tensor)


def test_what_does_not_fit_is_refused(package, engine, tmp_path):
    folder, graph, spec = package
    inputs = dict(graph.inputs)
    for wrong in ({"tokens": inputs["tokens"].double()}, {"tokens": inputs["tokens"][:, :2]}, {"more": inputs["past"]}):
        with pytest.raises(ShapeError):
            engine.run(inputs | wrong)
    engine.close()
    with pytest.raises(InternalError):
        engine.run(inputs)
    backend = TorchBackend(torch.device("cpu"))
    (tmp_path / graph.file).write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / graph.weights).write_bytes((folder / graph.weights).read_bytes())
    with pytest.raises(BundleIncompatibleError, match="rebuild"):
        backend.load(tmp_path / graph.file, spec)
    from safetensors.torch import save_file

    save_file({"linear.weight": graph.module.linear.weight.data}, tmp_path / graph.weights)
    (tmp_path / graph.file).write_bytes((folder / graph.file).read_bytes())
    with pytest.raises(BundleIncompatibleError, match="lacks"):
        backend.load(tmp_path / graph.file, spec)


def test_a_package_needs_no_code_of_ours_but_the_operators(package):
    """In a fresh process with the backend alone."""
    folder, graph, spec = package
    script = (
        "import sys, torch; from pathlib import Path; from dvgwm.runtime.backends.torch import open_backend;"
        "from dvgwm.runtime.backends.backend import EngineSpec; from dvgwm.runtime.types import TensorSpec as T;"
        f"spec = EngineSpec({spec.file!r}, (T('tokens', (2, 3, 16), 'float32'), T('past', (2, 4, 3, 16), 'float32')),"
        "(T('sum', (2, 3, 16), 'float32'), T('next', (2, 4, 3, 16), 'float32')), {'next': 'past'}, 0.0,"
        f"{spec.weights!r});"
        f"engine = open_backend(1).load(Path({str(folder / graph.file)!r}), spec);"
        "made = engine.run({'tokens': torch.ones(2, 3, 16), 'past': torch.ones(2, 4, 3, 16)});"
        "print(float(made['sum'].sum())); assert 'diffusers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        wanted = graph.module(torch.ones(2, 3, 16), torch.ones(2, 4, 3, 16))[0].sum()
    assert float(done.stdout) == pytest.approx(float(wanted), abs=1e-3)


@pytest.mark.parametrize("kind", ["ddim_v", "dpmpp_2m_sde", "ddim_epsilon"])
def test_the_backends_own_arithmetic_is_numpys(kind):
    ours, theirs = open_backend(None), HostBackend("numpy", lambda path, spec: None)
    rng = np.random.default_rng(0)
    for step in build_sampler(SamplerSpec(kind, 4, guidance=3.0, train_steps=100)).steps:
        state, velocity, history, noise = (rng.standard_normal((n, 5, 7), np.float32) for n in (1, 2, 1, 1))
        pair = [[backend.upload(array) for array in (state, velocity, history, noise)] for backend in (ours, theirs)]
        for backend, arrays in zip((ours, theirs), pair, strict=True):
            backend.affine_step(step, *arrays)
        for left, right in zip(*pair, strict=True):
            assert np.allclose(ours.download(left), right, atol=1e-5)
    latents, noise = rng.standard_normal((1, 3, 2, 4, 6), np.float32), rng.standard_normal((1, 3, 2, 8, 12), np.float32)
    scale, shift = np.float32([2.0]), np.float32([0.5])
    made, wanted = (
        backend.bridge(backend.upload(latents), scale, shift, backend.upload(noise), 0.8, 0.6)
        for backend in (ours, theirs)
    )
    assert np.allclose(ours.download(made), wanted, atol=1e-5)
    joined = ours.concatenate([ours.upload(latents), ours.upload(latents)])
    assert joined.shape[0] == 2
