"""Every part of a run, small: each leaves what the next one starts from."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("peft", reason="the train extra is not installed")
pytest.importorskip("pyarrow", reason="the train extra is not installed")

from safetensors.torch import load_file

from dvgwm.models.denoisers import CleanDenoiseEngine
from dvgwm.models.networks import build
from dvgwm.models.weights import load_parts, load_weights, save_parts, save_tensors
from dvgwm.runtime.errors import ConfigError
from dvgwm.training import commands, parts
from dvgwm.training.arrays import open_arrays
from dvgwm.training.policy import PolicyObjective, normalise

from .fitting import silent

pytestmark = pytest.mark.torch


@pytest.mark.thorough
def test_a_whole_run_from_codec_to_joint_phase(small_run, monkeypatch):
    run = small_run
    with pytest.raises(ConfigError, match="make it first with `dvgwm-train codec`"):
        parts.train_part(run, "waypoints", silent, silent)
    codecs = commands.fit_codecs(run, silent)
    assert codecs["low_codec"]["psnr_db"] > 25
    policy = parts.train_part(run, "policy", silent, silent)
    assert policy["step"] == 30
    with pytest.raises(ConfigError, match="make it first with `dvgwm-train waypoints`"):
        parts.train_part(run, "preview", silent, silent)
    parts.train_part(run, "waypoints", silent, silent)
    (*_, watched) = map(json.loads, (run.out / "waypoints" / "watched.jsonl").read_text().splitlines())
    assert 0.0 < watched["pose_error_mm"] < 400.0
    preview = parts.train_part(run, "preview", silent, silent)
    kept = load_file(run.out / "preview" / "weights.safetensors")
    assert all(name.startswith("engine.transformer.") for name in kept), "waypoints and text are another part's"
    assert {path.name for path in (run.out / "latents" / "test").iterdir()} == {"low.npy", "low.json"}
    pictures = list((run.out / "preview" / "pictures").glob("imagined_*.png"))
    assert len(pictures) == 2
    (*_, watched) = map(json.loads, (run.out / "preview" / "watched.jsonl").read_text().splitlines())
    assert {"held_out_loss", "psnr_over_still_db", "moving_psnr_over_still_db", "unexplained"} <= set(watched)
    assert 0.0 < watched["on_path_unexplained"] < 2.0
    assert 0.0 < watched["unexplained"] < 2.0
    refiner = parts.train_part(run, "refiner", silent, silent)
    (*_, watched) = map(json.loads, (run.out / "refiner" / "watched.jsonl").read_text().splitlines())
    assert {"psnr_over_still_db", "preview_psnr_over_still_db"} <= set(watched)
    assert list((run.out / "refiner" / "pictures").glob("imagined_*.png"))
    kept = load_file(run.out / "refiner" / "weights.safetensors")
    assert all(name.startswith("engine.") for name in kept), "the preview and its text encoder are another part's"
    with pytest.raises(ConfigError, match="or `imagine`"):
        parts.train_part(run, "tune", silent, silent)
    imagined = parts.imagined(run)
    followed, along = [], CleanDenoiseEngine.forward

    def watched_path(self, state, time, text, image, modulation=None, poses=None):
        if self.waypoints is not None:
            followed.append(poses)
        return along(self, state, time, text, image, modulation, poses)

    monkeypatch.setattr(CleanDenoiseEngine, "forward", watched_path)
    census = commands.imagine(run, 10, silent)
    monkeypatch.undo()
    assert (census.train, census.test, census.shortest, census.longest) == (8, 2, 49, 49)
    videos, truth = open_arrays(imagined, "scene"), open_arrays(run.data.path, "scene")
    assert videos.instructions[:8] == truth.instructions[:8]
    assert np.allclose(videos.actions(3), truth.actions(3)[:49], atol=1e-6)
    assert videos.frames(3).shape == (49, 64, 96, 3)
    wanted = normalise(np.asarray(truth.actions(3))[:48], run.preset.actions)
    assert np.allclose(followed[0][3], wanted, atol=1e-5), "frames and actions belong together"
    assert np.abs(videos.frames(3)[0].astype(int) - truth.frames(3)[0]).mean() < 12, "it begins at the first frame"
    before = videos.frames(3).copy()
    assert commands.imagine(run, 10, silent) == census
    assert np.array_equal(open_arrays(imagined, "scene").frames(3), before)
    with pytest.raises(ConfigError, match="16 demonstrations to learn from and 4 held out"):
        commands.imagine(run, 25, silent)
    tuned = parts.train_part(run, "tune", silent, silent)
    joint = parts.train_part(run, "joint", silent, silent)
    for told in (preview, refiner, tuned, joint):
        assert np.isfinite(told["loss"])
    first, before, after = (load_file(run.out / name / "weights.safetensors") for name in ("policy", "tune", "joint"))
    for earlier, later in ((first, before), (before, after)):
        assert any(name.startswith("unet") and not torch.equal(earlier[name], later[name]) for name in later)
    assert set(commands.collect(run, run.out / "weights")) == set(build(run.preset).parts())
    networks = build(run.preset, 9)
    assert len(load_parts(networks, run.out / "weights")) == 8
    collected, name = networks.policy.last[0].weight, "unet.last.0.weight"
    assert torch.allclose(collected, after[name], atol=1e-3)
    assert not torch.allclose(collected, before[name], atol=1e-3), "the joint phase's goes before the policy's own"


def test_weights_of_another_network_are_refused(small_run, tmp_path):
    networks = build(small_run.preset, 0)
    torch.manual_seed(0)
    objective = PolicyObjective(small_run.preset, networks, small_run.policy)
    save_tensors(objective.state_dict(), tmp_path / "w.safetensors")
    load_weights(objective, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="fits another network"):
        load_weights(networks.preview, tmp_path / "w.safetensors")


def test_networks_are_kept_in_half_precision_tied_weights_once(small_run, tmp_path):
    networks, others = build(small_run.preset, 0), build(small_run.preset, 1)
    save_parts(networks, ("text", "policy"), tmp_path)
    stored = load_file(tmp_path / "text.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert len(stored) == len({tensor.data_ptr() for tensor in networks.text.state_dict().values()})
    assert load_parts(others, tmp_path) == ("text", "policy")
    for name in ("text", "policy"):
        pairs = zip(networks.parts()[name].parameters(), others.parts()[name].parameters(), strict=True)
        assert all(torch.allclose(a, b, atol=2e-3) for a, b in pairs)
    assert not torch.allclose(networks.preview.proj_out.weight, others.preview.proj_out.weight, atol=2e-3)
    with pytest.raises(ConfigError, match="found none"):
        load_parts(others, tmp_path / "nowhere")
