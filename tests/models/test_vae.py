"""CogVideoX's VAE: its decoder chunk by chunk, its encoder's mode."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")


from dvgwm.models.engines import DecodeEngine, EncodeImageEngine, streaming
from dvgwm.models.presets import preset

pytestmark = pytest.mark.torch


def test_streaming_decode_is_diffusers_full_decode_and_stops_early_exactly(tiny):
    size = preset("test_tiny")
    codec, grid = streaming(tiny.codec), size.grid(size.high)
    names = codec.cache_names(size.codec.channels, grid)
    first, following = (DecodeEngine(codec, size.refiner_scaling, names, k, quantise=False) for k in (True, False))
    latents = torch.randn(1, 13, size.codec.channels, *grid, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full = tiny.codec.decode((latents / 1.15258426).transpose(1, 2)).sample
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
