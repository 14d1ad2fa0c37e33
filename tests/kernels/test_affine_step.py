"""The fused sampler step against its twin in float64 and against the runtime's own."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels.affine_step import COEFFICIENTS, affine_step, compiled_affine_step, plain_affine_step
from dvgwm.runtime.sampler import advance
from dvgwm.runtime.samplers.rows import ROWS, build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec

pytestmark = pytest.mark.torch

ROW = {"a": 0.9, "b": -0.3, "c": 0.2, "d": 0.1, "p": 0.4, "q": 0.6, "guidance": 6.0}
OPEN = {"limit": math.inf, "a0": 1.0, "b0": 0.0}
CLIPPED = {"limit": 0.7, "a0": 1.2, "b0": -0.4}


def numbers(row):
    return [row[name] for name in COEFFICIENTS]


def reference(state, velocity, history, noise, row):
    x, v, h, xi = (None if t is None else t.double() for t in (state, velocity, history, noise))
    plain_affine_step(x, v, h, xi, numbers(row))
    return x, h


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("clip", [OPEN, CLIPPED], ids=["open", "clipped"])
@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("count", [1, 7, 1023, 1024, 3000])
def test_parity(randn, check, dtype, clip, branches, count):
    state, velocity = randn(1, count, dtype=dtype), randn(branches, count, dtype=dtype)
    history, noise = randn(1, count), randn(1, count)
    wanted, kept = reference(state, velocity, history, noise, ROW | clip)
    compiled_affine_step(state, velocity, history, noise, numbers(ROW | clip))
    check(state, wanted, dtype)
    check(history, kept, torch.float32)


def test_strided_tensors(randn, check):
    state, velocity = randn(3, 5, 8).transpose(0, 2), randn(16, 10, 3)[:, ::2]
    wanted, _ = reference(state, velocity, None, None, ROW | OPEN)
    compiled_affine_step(state, velocity, None, None, numbers(ROW | OPEN))
    check(state, wanted, torch.float32)


def test_nothing_beyond_the_end_is_written(randn):
    memory = torch.full((2048,), 7.0, device=randn(1).device)
    state = memory[:1000].view(1, 1000)
    compiled_affine_step(state, randn(1, 1000), None, None, numbers(ROW | OPEN))
    assert (memory[1000:] == 7.0).all()
    assert not (memory[:1000] == 7.0).any()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy is what the interpreter computes with
def test_what_is_not_finite_stays_so(randn):
    state, velocity = randn(1, 64), randn(1, 64)
    velocity[0, 3], velocity[0, 5] = math.nan, math.inf
    for clip in (OPEN, CLIPPED):
        moved = state.clone()
        compiled_affine_step(moved, velocity, None, None, numbers(ROW | clip))
        assert not moved[0, [3, 5]].isfinite().any()


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "guidance"])
def test_a_wrong_coefficient_is_seen(randn, relative, name):
    """Negative control of the bound above."""
    state, velocity, history, noise = randn(1, 500), randn(2, 500), randn(1, 500), randn(1, 500)
    wanted, _ = reference(state, velocity, history, noise, ROW | OPEN)
    compiled_affine_step(state, velocity, history, noise, numbers(ROW | OPEN | {name: ROW[name] + 0.001}))
    assert relative(state, wanted) > 5e-5


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_every_sampler_as_the_runtime_steps_it(randn, relative, kind):
    """One operator serves every table: the whole run, against numpy."""
    made = build_sampler(SamplerSpec(kind, 6, guidance=3.0, train_steps=100))
    ours, theirs = (randn(1, 300) for _ in range(2))
    theirs.copy_(ours)
    theirs = theirs.cpu().numpy()
    past, kept = torch.zeros_like(ours), np.zeros_like(theirs)
    for step in made.steps:
        velocity, noise = randn(2, 300), randn(1, 300)
        affine_step(ours, velocity, past, noise, step.coefficients())
        advance(step, theirs, velocity.cpu().numpy(), kept, noise.cpu().numpy())
    assert relative(ours, torch.from_numpy(theirs)) < 1e-5
    assert relative(past, torch.from_numpy(kept)) < 1e-5
