"""CogVideoX's VAE: its decoder chunk by chunk, its encoder's mode."""

import weakref

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")

from torch.utils._python_dispatch import TorchDispatchMode

from dvgwm.models.engines import DecodeEngine, EncodeImageEngine, streaming
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.vae import statistics

pytestmark = pytest.mark.torch


def test_streaming_decode_is_diffusers_full_decode_and_stops_early_exactly(tiny):
    size = preset("test_tiny")
    codec, grid = streaming(tiny.codec), size.grid(size.high)
    names = codec.cache_names(size.codec.channels, grid)
    first, following = (DecodeEngine(codec, size.refiner_scaling, names, k, quantise=False) for k in (True, False))
    latents = torch.randn(1, 13, size.codec.channels, *grid, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full = build(size, 0).codec.decode((latents / 1.15258426).transpose(1, 2)).sample  # as diffusers made it
        full = full.mul(0.5).add(0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)

        def stream(count):
            made, *cache = first(latents[:, :3])
            frames = [made]
            for begin in range(3, count, 2):
                made, *cache = following(latents[:, begin : begin + 2], *cache)
                frames.append(made)
            return torch.cat(frames, 1)

        whole = stream(13)
        assert (whole - full).abs().max() < 1e-5
        assert torch.equal(stream(5), whole[:, :17])
        forgetful = torch.cat([whole[:, :9], first(latents[:, 3:6])[0]], 1)
    assert (forgetful[:, 9:17] - whole[:, 9:17]).abs().max() > 1e-3, "the cache matters"


def test_the_vaes_encoder_engine_gives_the_posteriors_mode(tiny):
    image = torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        made = EncodeImageEngine(tiny.codec)(image)
        frame = image.permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
        wanted = tiny.codec.encode(frame).latent_dist.mode().transpose(1, 2)
    assert torch.allclose(made, wanted, atol=1e-5)


def test_decoding_holds_no_blocks_input_longer_than_it_is_read_and_convolves_a_frame_at_a_time(tiny):
    size = preset("test_tiny")
    codec, grid = streaming(tiny.codec), size.grid(size.high)
    convolved, inputs, alive = [], [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.convolution.default and args[0].ndim == 5:
                convolved.append(args[0].shape[2])
            return function(*args, **(kwargs or {}))

    blocks = codec.decoder.up_blocks
    hooks = [
        hook
        for block in blocks
        for hook in (
            block.resnets[0].register_forward_pre_hook(lambda module, args: inputs.append(weakref.ref(args[0]))),
            block.resnets[1].register_forward_pre_hook(lambda module, args: alive.append(inputs[-1]() is not None)),
        )
    ]
    try:
        with torch.no_grad(), Watch():
            codec(torch.randn(1, size.codec.channels, 3, *grid), None)
    finally:
        for hook in hooks:
            hook.remove()
    assert alive == [False] * len(blocks)
    assert max(convolved) == 3, "a causal convolution's window"


class Norm(torch.nn.Module):
    """A group norm, torch's own or ours."""

    def __init__(self, ours):
        super().__init__()
        self.norm, self.ours = torch.nn.GroupNorm(1, 2, eps=1e-6), ours

    def forward(self, x):
        if not self.ours:
            return self.norm(x)
        gain, offset = statistics(self.norm, x)
        return x * gain + offset


def test_a_norm_of_millions_of_numbers_is_exact_in_onnx_runtime(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from dvgwm.export.onnx_graph import export_onnx
    from dvgwm.runtime.backends.backend import EngineSpec
    from dvgwm.runtime.backends.onnx import open_backend
    from dvgwm.runtime.types import TensorSpec

    shape = (1, 2, 9, 480, 720)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3 + 1.5
    wanted = (x.double() - x.double().mean()) / (x.double().var(correction=0) + 1e-6).sqrt()
    errors = {}
    for ours in (True, False):
        path = tmp_path / f"{ours}.onnx"
        export_onnx(Norm(ours), {"x": x}, ("y",), {}, path)
        spec = EngineSpec(
            path.name, (TensorSpec("x", shape, "float32"),), (TensorSpec("y", shape, "float32"),), {}, 0.0, ""
        )
        got = open_backend(1).load(path, spec).run({"x": x.numpy()})["y"]
        errors[ours] = float((torch.from_numpy(got) - wanted).abs().max())
        torch_error = float((Norm(ours)(x) - wanted).detach().abs().max())
        assert torch_error < 2e-5
    assert errors[True] < 2e-5
    assert errors[False] > 20 * errors[True], "what it is for"
