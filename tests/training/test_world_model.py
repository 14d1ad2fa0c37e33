"""Waypoints, preview, refiner and joint phase: each learns, and from what."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("peft", reason="the train extra is not installed")
pytest.importorskip("pyarrow", reason="the train extra is not installed")


from dvgwm.models.networks import build
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec
from dvgwm.training.arrays import open_arrays
from dvgwm.training.estimate import PreviewEstimate
from dvgwm.training.joint import JointObjective
from dvgwm.training.policy import normalise
from dvgwm.training.preview import PreviewObjective
from dvgwm.training.refiner import RefinerObjective
from dvgwm.training.waypoints import WaypointsObjective

from .fitting import learns, seeded

pytestmark = pytest.mark.torch


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
