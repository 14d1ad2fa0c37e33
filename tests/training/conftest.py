"""A small world for the loops: squares that a hand carries, in a data set of a few seconds."""

from dataclasses import replace

import numpy as np
import pytest

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def own_convolutions():
    """torch's own convolutions: oneDNN's backward (torch 2.13) spoils the heap on some CPUs where it has one thread."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # the public way warns of what this build has not
    yield
    torch._C._set_mkldnn_enabled(before)


def episode(number):
    """A dark square travels to where the action says, 50 to 55 frames."""
    from dvgwm.runtime.record.lerobot import Episode

    rng = np.random.default_rng(number)
    length = 50 + number % 6
    path = np.linspace(rng.uniform(0.2, 0.8, 2), rng.uniform(0.2, 0.8, 2), length)
    frames = np.full((length, *SIZE, 3), 200, np.uint8)
    for frame, (y, x) in zip(frames, path, strict=True):
        row, column = int(y * SIZE[0]), int(x * SIZE[1])
        frame[max(row - 8, 0) : row + 8, max(column - 8, 0) : column + 8] = (30, 60, 160)
    action = np.zeros((length, 7))
    action[:, 0], action[:, 1], action[:, 6] = 0.15 + 0.37 * path[:, 0], -0.2 + 0.4 * path[:, 1], number % 2
    return Episode(("go left", "go right")[number % 2], {"scene": frames}, np.zeros((length, 7)), action, {})


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory):
    """A data set of 20 such episodes, 16 to learn from."""
    from dvgwm.runtime.record.lerobot import Schema
    from dvgwm.training.data import record_episodes

    root = tmp_path_factory.mktemp("squares") / "set"
    names = tuple("abcdefg")
    schema = Schema("hand", 10.0, {"scene": SIZE}, names, names)
    splits = {"train": "0:16", "test": "16:20"}
    record_episodes(root, schema, map(episode, range(20)), lambda total: splits, "scene", lambda *_: None)
    return root


@pytest.fixture
def small_run(demonstrations, tmp_path):
    """A run of `a1_tiny` made smaller, on those episodes."""
    from dvgwm.models.presets import preset
    from dvgwm.models.sizes import DiT, LinearCodecSize
    from dvgwm.training.config import read_run

    run = read_run("a1_tiny", tmp_path / "run")
    size = preset("a1_tiny")
    size = replace(
        size,
        low=(32, 48),
        high=(64, 96),
        preview=DiT(2, 1, 32, predicts="clean", waypoints=4),
        refiner=DiT(2, 1, 32, predicts="clean"),
        codec=LinearCodecSize(8, 16),
        policy=replace(size.policy, stem=8, widths=(16, 32)),
        sampling=replace(size.sampling, preview_steps=4),
    )
    plain = {"precision": "float32", "log_every": 1, "watch_every": 10, "checkpoint_every": 100, "warmup": 1}
    return replace(
        run,
        preset=size,
        data=replace(run.data, path=demonstrations),
        waypoints=replace(run.waypoints, steps=12, batch=4, **plain),
        preview=replace(run.preview, steps=12, batch=4, **plain),
        refiner=replace(run.refiner, steps=6, batch=2, **plain),
        policy=replace(run.policy, steps=30, batch=4, **plain),
        tune=replace(run.tune, steps=10, batch=4, **plain),
        joint=replace(run.joint, steps=3, batch=1, learning_rate=1e-2, **plain),
    )


@pytest.fixture
def small(small_run):
    """Preset, networks with fitted codecs, and one batch of clips with chunks of actions."""
    import torch

    from dvgwm.training import commands, parts
    from dvgwm.training.arrays import open_arrays
    from dvgwm.training.clips import LatentClips, windows, write_clips

    from .fitting import silent

    run = small_run
    commands.fit_codecs(run, silent)
    networks = parts.networks_with_codecs(run)
    arrays = open_arrays(run.data.path, "scene")
    chosen = windows(run.preset, arrays, range(2), 1.0, 0)
    names = ("low", "high", "degraded")
    write_clips(run.out / "two", run.preset, networks, arrays, chosen, names, silent)
    tokens = parts.tokens_of(run.preset)
    clips = LatentClips(run.preset, run.out / "two", names, arrays, tokens, ("actions", "poses"))
    batch = torch.utils.data.default_collate([clips[n] for n in range(2)])
    return run, networks, batch, tokens("")
