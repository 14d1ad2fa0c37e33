"""The waypoints, and the preview that draws along them."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")


from dvgwm.models.waypoints import Waypoints, along, path_channels

pytestmark = pytest.mark.torch


def squares(count, generator):
    """Grey frames with a dark square of 6 pixels each, and where its middle is, in [-1, 1]."""
    frames, places = torch.full((count, 3, 32, 48), 0.6), torch.rand(count, 2, generator=generator)
    for frame, place in zip(frames, places, strict=True):
        row, column = (int(at * (size - 6)) for at, size in zip(place, (32, 48), strict=True))
        frame[:, row : row + 6, column : column + 6] = -0.8
        place[0], place[1] = (row + 2.5) / 31 * 2 - 1, (column + 2.5) / 47 * 2 - 1
    return frames, places


def test_waypoints_tell_where_things_are_to_less_than_a_pixel_and_heed_the_text():
    torch.manual_seed(0)
    network = Waypoints(8, 16, frames=2, dof=2)
    texts = torch.randn(2, 48, 16)  # one says "go there", the other "go to the opposite place"
    optimiser, generator = torch.optim.Adam(network.parameters(), 5e-3), torch.Generator().manual_seed(0)

    def missed(count):
        frames, places = squares(count, generator)
        said = torch.randint(2, (count,), generator=generator)
        wanted = places * (1.0 - 2.0 * said[:, None])
        return network(frames, texts[said])[:, 1] - wanted

    for _ in range(300):
        loss = missed(16).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        pixels = missed(64).abs().mean(0) * torch.tensor([31 / 2, 47 / 2])
    assert pixels.max() < 1.0


def test_every_latent_is_told_where_it_is():
    told = along(torch.zeros(1, 8, 7), 5, 3)
    assert told.shape == (1, 3, path_channels(7), 5, 3)
    where = told[0, :, 7 * 28 : 7 * 28 + 3]
    assert where[:, :, 2, 1].tolist() == [[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert where[1, :, 4, 2].tolist() == [0.0, 1.0, 1.0]
    places = told[0, 0, 7 * 28 :].flatten(1).T
    assert torch.cdist(places, places).fill_diagonal_(9.0).min() > 0.1, "no two latents of a frame are told the same"
