"""The fused decoder is diffusers' decoder, chunk by chunk, with its activations channels last."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")

from torch.utils._python_dispatch import TorchDispatchMode

from dvgwm.kernels.language import AVAILABLE
from dvgwm.models import fused_vae
from dvgwm.models.engines import DecodeEngine
from dvgwm.models.fused_vae import FusedDecoder
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.sizes import Scaling, VaeSize
from dvgwm.models.vae import CHUNKS, StreamingDecoder, build_vae, flatten_cache, nest_cache

pytestmark = pytest.mark.torch

WIDE = VaeSize((16, 32, 24, 48), 1, 6, groups=8)


def randomised(vae, dtype):
    """Every parameter random: at its start the norms' weights are 1 and what they scale is hidden."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(vae.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm_layer" in name:
                parameter.copy_(noise * 0.2 + (1.0 if name.endswith("weight") else 0.0))
            elif parameter.dim() == 1:
                parameter.copy_(noise * 0.1)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return vae.eval().to(dtype)


def vae_of(name, dtype):
    return randomised(build(preset("test_tiny"), 0).codec if name == "test_tiny" else build_vae(WIDE), dtype)


def latents_of(name, count, dtype, grid=(2, 3), seed=0):
    channels = 4 if name == "test_tiny" else WIDE.channels
    return torch.randn(1, channels, count, *grid, generator=torch.Generator().manual_seed(seed)).to(dtype)


@torch.no_grad()
def decoded(decoder, chunks):
    """Frames of every chunk and the cache after the last, by name."""
    frames, cache = [], None
    for latents in chunks:
        shown, cache = decoder(latents, cache)
        frames.append(shown)
    return frames, dict(flatten_cache(cache))


def worst(got, wanted):
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["test_tiny", "wide"])
def test_three_chunks_and_their_caches_are_the_streaming_decoders(name, dtype, limit):
    vae = vae_of(name, dtype)
    chunks = [latents_of(name, count, dtype, seed=i) for i, count in enumerate((CHUNKS[0], CHUNKS[1], CHUNKS[1]))]
    streaming, fused = StreamingDecoder(vae), FusedDecoder(vae)
    wanted, wanted_cache = decoded(streaming, chunks)
    got, cache = decoded(fused, chunks)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert worst(ours, theirs) < limit
    read = {n: t for n, t in wanted_cache.items() if "norm" not in n}
    assert list(cache) == list(read)
    assert all(worst(cache[n], read[n]) < limit for n in read)
    assert worst(got[1], decoded(fused, chunks[1:2])[0][0][:, :, : got[1].shape[2]]) > 1e-2, "the cache changes nothing"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_any_number_of_latent_frames_is_decoded_alike(count):
    vae = vae_of("wide", torch.float64)
    chunks = [latents_of("wide", count, torch.float64)]
    (wanted,), _ = decoded(StreamingDecoder(vae), chunks)
    (got,), _ = decoded(FusedDecoder(vae), chunks)
    assert worst(got, wanted) < 1e-9


def test_the_names_are_those_of_every_cached_tensor():
    for name in ("test_tiny", "wide"):
        vae = vae_of(name, torch.float32)
        channels = latents_of(name, 1, torch.float32).shape[1]
        names = FusedDecoder(vae).cache_names(channels, (2, 3))
        assert names == StreamingDecoder(vae).cache_names(channels, (2, 3))
        assert tuple(decoded(FusedDecoder(vae), [latents_of(name, 3, torch.float32)])[1]) == names


def test_the_parameters_are_the_vaes_own():
    vae = vae_of("test_tiny", torch.float32)
    before = dict(vae.decoder.named_parameters())
    values = {name: parameter.detach().clone() for name, parameter in before.items()}
    fused = FusedDecoder(vae)
    for name, parameter in fused.decoder.named_parameters():
        assert parameter is before[name]
        assert torch.equal(parameter, values[name])
    weights = [p for p in fused.parameters() if p.dim() == 5]
    assert all(weight.is_contiguous(memory_format=torch.channels_last_3d) for weight in weights)


@pytest.mark.parametrize("first", [True, False])
def test_the_decode_engine_takes_it(first):
    vae = vae_of("test_tiny", torch.float32)
    scaling = Scaling((0.0,), (1.4,))
    names = FusedDecoder(vae).cache_names(4, (2, 3))
    cache = decoded(StreamingDecoder(vae), [latents_of("test_tiny", 3, torch.float32)])[1]
    given = () if first else tuple(cache[name] for name in names)
    latents = latents_of("test_tiny", CHUNKS[0 if first else 1], torch.float32, seed=7).transpose(1, 2)
    with torch.no_grad():
        wanted = DecodeEngine(StreamingDecoder(vae), scaling, names, first, quantise=False)(latents, *given)
        got = DecodeEngine(FusedDecoder(vae), scaling, names, first, quantise=False)(latents, *given)
    assert len(got) == 1 + len(names)
    assert all(
        ours.shape == theirs.shape and worst(ours, theirs) < 1e-5 for ours, theirs in zip(got, wanted, strict=True)
    )


class Recorder(TorchDispatchMode):
    """Every operator that makes a tensor, with the activations, weights and caches that it sees and what it makes."""

    def __init__(self):
        super().__init__()
        self.names, self.seen, self.made = [], [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.names.append(function.name())
            self.made.append((function.name(), result))
            self.seen += [(function.name(), x) for x in args if isinstance(x, torch.Tensor) and x.dim() > 3]
        return result


def channels_last(tensor):
    layout = torch.channels_last_3d if tensor.dim() == 5 else torch.channels_last
    return tensor.is_contiguous(memory_format=layout)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 convolutions in oneDNN (AVX-512)"
)
@pytest.mark.parametrize("count", CHUNKS)
def test_every_activation_is_channels_last_and_none_is_copied_to_be_so(count):
    """In bfloat16, whose convolutions keep the layout on the CPU (oneDNN) as all do on CUDA (cuDNN)."""
    vae = vae_of("wide", torch.bfloat16)
    fused, given = FusedDecoder(vae), latents_of("wide", count, torch.bfloat16)
    cache = decoded(fused, [latents_of("wide", 3, torch.bfloat16)])[1] if count == CHUNKS[1] else {}
    with torch.no_grad(), Recorder() as run:
        fused(given, nest_cache(tuple(cache), tuple(cache.values())))
    layers = {"dvgwm::spatial_norm", "aten::convolution", "aten::add.Tensor", "aten::upsample_nearest2d"}
    assert layers <= set(run.names) <= layers | {"aten::clone", "aten::cat"}
    assert all(channels_last(tensor) for name, tensor in run.seen if name in layers)
    assert all(channels_last(tensor) for name, tensor in run.made if name in layers)
    names = len(fused.cache_names(6, (2, 3)))
    assert run.names.count("dvgwm::spatial_norm") == names - 1
    assert run.names.count("aten::cat") == 1 + 2, "the first convolution's padding and the two upsamplers in time"
    assert run.names.count("aten::clone") == 1 + names, "the latents, and every convolution's frames for the next chunk"
    with torch.no_grad(), Recorder() as control:
        StreamingDecoder(vae)(given, None)
    assert not all(channels_last(tensor) for name, tensor in control.made if name in layers), "the check sees nothing"


def test_no_cache_keeps_an_activation_alive():
    """A view of the last two frames would hold on to the whole tensor they are the end of."""
    _, cache = decoded(FusedDecoder(vae_of("wide", torch.float32)), [latents_of("wide", 3, torch.float32)])
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in cache.values())


def test_two_videos_at_once_are_refused():
    with pytest.raises(ValueError, match="one video at a time"):
        FusedDecoder(vae_of("test_tiny", torch.float32))(torch.zeros(2, 4, 3, 3, 5), None)


@pytest.mark.thorough
@pytest.mark.skipif(not AVAILABLE, reason="Triton is not installed")
def test_the_kernel_itself_decodes_the_same(monkeypatch):
    from dvgwm.kernels.spatial_norm import compiled_spatial_norm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = vae_of("test_tiny", torch.float32)
    chunks = [latents_of("test_tiny", count, torch.float32, (2, 3), seed=count) for count in CHUNKS]
    wanted, wanted_cache = decoded(StreamingDecoder(vae), chunks)
    calls = []
    monkeypatch.setattr(fused_vae, "spatial_norm", lambda *given: calls.append(0) or compiled_spatial_norm(*given))
    got, cache = decoded(FusedDecoder(vae.to(device)), [latents.to(device) for latents in chunks])
    assert len(calls) == 2 * (len(cache) - 1)
    limit = 1e-5 if device == "cpu" else 1e-3  # there the convolutions themselves differ
    assert all(worst(ours.cpu(), theirs) < limit for ours, theirs in zip(got, wanted, strict=True))
    assert all(worst(cache[name].cpu(), wanted_cache[name]) < limit for name in cache)
