"""Every part of a run, small: each learns, and leaves what the next one starts from."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("peft", reason="the train extra is not installed")
pytest.importorskip("pyarrow", reason="the train extra is not installed")

from safetensors.torch import load_file

from dvgwm.models.denoisers import CleanDenoiseEngine
from dvgwm.models.networks import build, parameters
from dvgwm.models.presets import preset
from dvgwm.models.weights import load_parts, load_weights, save_parts, save_tensors
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec
from dvgwm.training import commands, parts
from dvgwm.training.arrays import open_arrays
from dvgwm.training.clips import LatentClips, windows, write_clips
from dvgwm.training.config import read_run
from dvgwm.training.estimate import PreviewEstimate
from dvgwm.training.joint import JointObjective
from dvgwm.training.lora import prepared
from dvgwm.training.policy import PolicyObjective, Windows, disturb, normalise
from dvgwm.training.preview import PreviewObjective
from dvgwm.training.refiner import RefinerObjective
from dvgwm.training.waypoints import WaypointsObjective

pytestmark = pytest.mark.torch


def silent(*_):
    pass


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def learns(objective, batch, steps=40, rate=3e-3):
    """Return the loss before and after fitting one batch under the same noise."""
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], rate)
    losses = []
    for _ in range(steps):
        loss = objective(batch, seeded())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


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

    def watched_path(self, state, time, text, image, poses=None):
        if self.waypoints is not None:
            followed.append(poses)
        return along(self, state, time, text, image, poses)

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


@pytest.fixture
def small(small_run):
    """Preset, networks with fitted codecs, and one batch of clips with chunks of actions."""
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


def test_preview_and_refiner_fit_a_batch(small):
    run, networks, batch, empty = small
    first, last = learns(PreviewObjective(run.preset, networks, run.preview, empty), batch)
    assert last < 0.8 * first
    first, last = learns(RefinerObjective(run.preset, networks, run.refiner, empty), batch)
    assert last < 0.9 * first


def test_the_waypoints_fit_the_tools_path(small):
    run, networks, batch, _ = small
    arrays, size = open_arrays(run.data.path, "scene"), run.preset
    assert batch["poses"].shape == (2, size.frames - 1, 7)
    wanted = normalise(np.asarray(arrays.actions(0)), size.actions)
    assert torch.allclose(batch["poses"][0], torch.from_numpy(wanted[: size.frames - 1]))
    objective = WaypointsObjective(size, networks, run.waypoints)
    first, last = learns(objective, batch)
    assert last < 0.3 * first
    assert networks.text.encoder.block[0].layer[0].SelfAttention.q.weight.grad.abs().max() > 0, "the text learns too"
    plain = replace(size, preview=replace(size.preview, waypoints=0))
    with pytest.raises(ConfigError, match="finds its own path"):
        WaypointsObjective(plain, build(plain), run.waypoints)


def test_the_preview_is_taught_along_the_true_path_and_leaves_waypoints_and_text_alone(small):
    run, networks, batch, empty = small
    objective = PreviewObjective(run.preset, networks, run.preview, empty)
    elsewhere = batch | {"poses": -batch["poses"]}
    with torch.no_grad():
        assert float(objective(batch, seeded())) != float(objective(elsewhere, seeded()))
    objective(batch, seeded()).backward()
    rows = build_sampler(SamplerSpec("ddim_v", 1))
    inputs = torch.randn(batch["low"].shape), batch["tokens"], batch["low"][:, :1]
    own, given = (objective.imagine(rows, *inputs, poses) for poses in (None, batch["poses"]))
    assert not torch.allclose(own, given), "what it draws along the true path is looked at, too"
    borrowed = [*networks.waypoints.parameters(), *networks.text.parameters()]
    assert all(parameter.grad is None for parameter in borrowed)
    assert networks.preview.patch_embed.proj.weight.grad.abs().max() > 0


def test_what_the_preview_tells_takes_the_place_of_true_latents(small):
    run, networks, batch, _ = small
    told = PreviewEstimate(run.preset, networks, 1.0, (500, 999))
    clean, text = batch["low"], torch.zeros(2, run.preset.text.max_tokens, run.preset.text.width)
    made = told(batch, text, seeded())
    assert torch.allclose(made[:, :1], clean[:, :1], atol=1e-4), "the first frame is given"
    assert (made - clean)[:, 1:].abs().max() > 0.1

    def perfect(state, steps, text, image, poses):
        assert torch.equal(poses, batch["poses"]), "along the true path"
        alpha, sigma = (table[steps.long()].view(-1, 1, 1, 1, 1) for table in (told.levels.alpha, told.levels.sigma))
        return (alpha * state - clean) / sigma

    del told.engine
    told.engine = perfect
    assert torch.allclose(told(batch, text, seeded()), clean, atol=1e-4)
    told.share = 0.0
    assert torch.equal(told(batch, text, seeded()), clean)


def test_refiner_and_joint_phase_are_shown_what_the_preview_tells(small):
    run, networks, batch, empty = small
    made = (
        RefinerObjective(run.preset, networks, replace(run.refiner, generated=1.0), empty),
        JointObjective(run.preset, networks, replace(run.joint, generated=1.0)),
    )
    for objective in made:
        seen = []
        objective.estimate.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        objective(batch, seeded())
        assert (seen[0] - batch["low"])[:, 1:].abs().max() > 0.1
    true = JointObjective(run.preset, networks, replace(run.joint, generated=0.0))
    with torch.no_grad():
        assert float(true(batch, seeded())) != float(made[1](batch, seeded()))


def test_the_joint_gradient_reaches_the_last_refine_step_and_no_further(small):
    run, networks, batch, _ = small
    # Untrained it adds nothing, and nothing comes back through it.
    torch.nn.init.normal_(networks.refiner.proj_out.weight, std=0.1)
    objective = JointObjective(run.preset, networks, run.joint)
    objective(batch, seeded()).backward()

    def touched(module):
        return any(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())

    assert touched(networks.policy)
    assert touched(networks.frame_encoder)
    assert touched(networks.refiner)
    assert not touched(networks.preview)
    assert not touched(networks.text)
    assert all(p.grad is None for p in networks.codec.parameters())
    one = [p.grad.clone() for p in networks.refiner.parameters() if p.grad is not None]
    # More steps back, or the same through checkpoints: the depth is a setting, the arithmetic is not.
    for joint, same in (
        (replace(run.joint, gradient_checkpointing=True), True),
        (replace(run.joint, refine_steps=2), False),
    ):
        objective.zero_grad()
        objective.part = joint
        objective(batch, seeded()).backward()
        other = [p.grad for p in networks.refiner.parameters() if p.grad is not None]
        alike = all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))
        assert alike == same
    networks.refiner.zero_grad()
    networks.policy.zero_grad()
    objective.part = replace(run.joint, refine_steps=0)
    objective(batch, seeded()).backward()
    assert not touched(networks.refiner)
    assert touched(networks.policy)


def test_windows_hold_the_last_frame_and_action_and_know_the_first_pose(demonstrations):
    arrays, size = open_arrays(demonstrations, "scene"), preset("a1_tiny")
    windows_ = Windows(size, arrays, [0], 13, 0)
    wanted = normalise(np.asarray(arrays.actions(0)), size.actions)
    starts = set()
    for index in range(len(windows_)):
        item = windows_[index]
        assert item["frames"].shape == (13, 64, 96, 3)
        assert item["actions"].shape == (11, 16, 7)
        match = np.abs(wanted - item["actions"][0, 0].numpy()).max(1).argmin()
        starts.add(int(match))
        for chunk in range(11):
            rows = np.minimum(match + 4 * chunk + np.arange(16), 49)
            assert np.allclose(item["actions"][chunk], wanted[rows], atol=1e-6)
        assert bool(item["known"][0]) == (match > 0)
        assert np.allclose(item["pose"][1], wanted[min(match + 4, 49) - 1], atol=1e-6)
        assert np.array_equal(item["frames"][-1], arrays.frames(0)[min(match + 48, 49)])
    assert len(starts) > 8, "clips begin anywhere"


def test_the_policy_learns_where_the_square_goes(small_run):
    arrays = open_arrays(small_run.data.path, "scene")
    windows_ = Windows(small_run.preset, arrays, [0, 1], 13, 0)
    batch = torch.utils.data.default_collate([windows_[0], windows_[51]])
    part = replace(small_run.policy, disturb=0.0, window=13)
    objective = PolicyObjective(small_run.preset, build(small_run.preset, 0), part)
    first, last = learns(objective, batch, 60)
    assert last < 0.6 * first


def test_disturbed_frames_stay_pictures_and_differ_clip_by_clip():
    frames = torch.rand(6, 3, 32, 48, generator=seeded()).to(memory_format=torch.channels_last)
    made = disturb(frames, 2, 1.0, seeded(1))
    assert made.shape == frames.shape
    assert 0.0 <= float(made.min()) <= float(made.max()) <= 1.0
    change = (made - frames).flatten(1).mean(1)
    assert change[:3].std() < 0.02 < abs(change[0] - change[3])
    assert torch.allclose(disturb(frames, 2, 0.0, seeded(1)), frames, atol=1e-6)


def test_clips_begin_within_episodes_too_and_short_ones_are_dropped_where_the_preset_says_so(demonstrations):
    arrays, size = open_arrays(demonstrations, "scene"), preset("a1_tiny")
    chosen = windows(size, arrays, range(20), 0.5, 0)
    assert {window.episode for window in chosen if window.start == 0} == set(range(20))
    assert 3 < sum(window.start > 0 for window in chosen) < 17
    assert len(windows(size, arrays, range(20), 2.0, 0)) == 60
    longer = replace(size, frames=53)
    assert len(windows(longer, arrays, range(20), 0.0, 0)) == 20
    dropped = windows(replace(longer, drop_short=True), arrays, range(20), 0.0, 0)
    assert {window.episode for window in dropped} == {n for n in range(20) if arrays.lengths[n] >= 53}


def test_latents_are_written_once_each_kind_on_its_own_and_again_for_another_codec(small):
    run, networks, _, _ = small
    arrays, out, counts = open_arrays(run.data.path, "scene"), run.out / "two", []
    chosen = windows(run.preset, arrays, range(2), 1.0, 0)

    def write(*names):
        counts.clear()
        write_clips(out, run.preset, networks, arrays, chosen, names, lambda *at: counts.append(at))
        return counts[-1] if counts else None

    assert write("low", "high") is None
    before = np.load(out / "high.npy")
    networks.codec.get_buffer("group_scale").mul_(2.0)
    assert write("low") is None
    assert write("low", "high") == (len(chosen), len(chosen))
    assert np.allclose(np.load(out / "high.npy")[:, 1:] * 2.0, before[:, 1:], atol=2e-3)
    (out / "high.json").unlink()  # stopped before it was whole
    assert write("high", "degraded") == (2 * len(chosen), 2 * len(chosen))
    with pytest.raises(ConfigError, match="no low latents"):
        LatentClips(run.preset, run.out / "nowhere", ("low",), arrays, parts.tokens_of(run.preset))


def test_lora_trains_the_papers_adapters_alone():
    size = preset("dvgwm_5b")
    part = read_run("dvgwm_5b").preview
    assert (part.lora_rank, part.learning_rate, part.batch) == (128, 5e-4, 4)
    network = prepared(build(size, device="meta").preview, part)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert trained / 1e6 == pytest.approx(501, abs=3)
    assert all("lora" in name for name, p in network.named_parameters() if p.requires_grad)
    whole = prepared(build(preset("test_tiny"), 0).preview, read_run("a1_tiny").preview)
    assert sum(p.numel() for p in whole.parameters() if p.requires_grad) == parameters(whole)


def test_adapters_change_nothing_until_they_are_trained():
    size = preset("test_tiny")
    network, again = (build(size, 0).preview for _ in range(2))
    adapted = prepared(again, replace(read_run("a1_tiny").preview, lora_rank=4))
    inputs = {
        "hidden_states": torch.randn(1, 3, 8, 4, 6, generator=seeded()),
        "encoder_hidden_states": torch.randn(1, size.text.max_tokens, 16, generator=seeded()),
        "timestep": torch.tensor([5.0]),
        "image_rotary_emb": (torch.ones(18, 64), torch.zeros(18, 64)),
        "return_dict": False,
    }
    with torch.no_grad():
        assert torch.allclose(network(**inputs)[0], adapted(**inputs)[0], atol=1e-6)


@pytest.mark.parametrize("rank", [0, 4])
def test_gradient_checkpointing_computes_blocks_twice_and_gives_the_same_gradients(rank):
    part, size, made = replace(read_run("a1_tiny").preview, lora_rank=rank), preset("test_tiny"), []
    for checkpointed in (False, True):
        torch.manual_seed(0)  # the adapters' weights
        network = prepared(build(size, 0).preview, replace(part, gradient_checkpointing=checkpointed)).train()
        calls = []
        network.get_submodule("transformer_blocks.0").register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # zeros at first: no gradient would reach the other factor
        inputs = {
            "hidden_states": torch.randn(1, 3, 8, 4, 6, generator=seeded(), requires_grad=True),
            "encoder_hidden_states": torch.randn(1, size.text.max_tokens, 16, generator=seeded()),
            "timestep": torch.tensor([5.0]),
            "image_rotary_emb": (torch.ones(18, 64), torch.zeros(18, 64)),
            "return_dict": False,
        }
        network(**inputs)[0].square().mean().backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.requires_grad and p.grad is not None}
        assert len(calls) == 1 + checkpointed
        made.append(gradients)
    assert made[0].keys() == made[1].keys()
    assert any(gradient.abs().max() > 0 for gradient in made[0].values())
    assert all(torch.allclose(made[0][name], made[1][name], atol=1e-7) for name in made[0])


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
