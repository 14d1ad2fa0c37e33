"""What tests of several networks share."""

import pytest


@pytest.fixture(scope="module")
def tiny():
    """The networks of `test_tiny`."""
    from dvgwm.models.networks import build
    from dvgwm.models.presets import preset

    return build(preset("test_tiny"), 0)


@pytest.fixture
def whole_codec():
    """Give what makes, from a seed, a linear codec that loses nothing: as many channels as a group's patch has pixels."""
    import torch

    from dvgwm.models.codec import LinearCodec

    def make(seed):
        pixels = 3 * 4 * 4 * 4
        codec = LinearCodec(4, pixels)
        generator = torch.Generator().manual_seed(seed)
        codec.group_basis.copy_(torch.linalg.qr(torch.randn(pixels, pixels, generator=generator))[0])
        codec.group_scale.copy_(torch.rand(pixels, generator=generator) + 0.5)
        return codec

    return make
