"""The training loop: learns, is killed and goes on, in one process, in two, and sharded."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("accelerate", reason="the train extra is not installed")

from safetensors.torch import load_file

from dvgwm.runtime.errors import ConfigError
from dvgwm.training.config import PartSettings
from dvgwm.training.loop import Progress, lowered, train
from dvgwm.training.optimisers import Muon, optimisers, orthogonal, rate
from dvgwm.training.order import BatchOrder

from . import loop_script

pytestmark = [pytest.mark.torch, pytest.mark.slow]
SCRIPT = Path(__file__).with_name("loop_script.py")


def losses(out):
    return {row["step"]: row["loss"] for row in map(json.loads, (out / "losses.jsonl").read_text().splitlines())}


def command(out, steps, *words, processes=1):
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port=29511"]
    return [*start, str(SCRIPT), str(out), str(steps), *words]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def run(out, steps, *words, processes=1):
    done = subprocess.run(
        command(out, steps, *words, processes=processes), env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped; Muon for the blocks and AdamW for the rest, so that both have to go on."""
    out = tmp_path_factory.mktemp("whole")
    loop_script.main(out, 40, "muon")
    return out


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """The losses of a run in two processes, each with all weights."""
    return run(tmp_path_factory.mktemp("twice"), 30, processes=2)


def test_it_learns_and_leaves_averaged_weights(whole):
    out, curve = whole, losses(whole)
    assert list(curve) == list(range(1, 41))
    assert sum(curve[step] for step in range(36, 41)) < 0.4 * sum(curve[step] for step in range(1, 6))
    weights = load_file(out / "weights.safetensors")
    assert weights["first.weight"].shape == (32, 8)
    watched = [json.loads(line) for line in (out / "watched.jsonl").read_text().splitlines()]
    assert [row["step"] for row in watched] == [10, 20, 30, 40]
    assert watched[-1]["held_out_loss"] < watched[0]["held_out_loss"]
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["0000035", "0000040"]


@pytest.mark.thorough
def test_killed_at_any_moment_it_goes_on_to_the_same_curve(whole, tmp_path):
    wanted = losses(whole)
    started = subprocess.Popen(command(tmp_path, 40, "muon", "slow"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (tmp_path / "checkpoints" / "0000010").is_dir() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.2)  # somewhere between two checkpoints
    started.send_signal(signal.SIGKILL)
    started.wait()
    killed = losses(tmp_path)
    assert 10 <= max(killed) < 40, "it was killed on its way"
    again = run(tmp_path, 40, "muon")
    assert again == pytest.approx(wanted, rel=1e-5)
    one, other = (load_file(folder / "weights.safetensors") for folder in (whole, tmp_path))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_finished_run_is_not_begun_again(whole):
    before = (whole / "losses.jsonl").read_text()
    loop_script.main(whole, 40, "muon")
    assert (whole / "losses.jsonl").read_text() == before


@pytest.mark.thorough
def test_two_processes_learn(twice):
    assert len(twice) == 30
    assert sum(twice[step] for step in range(26, 31)) < 0.4 * sum(twice[step] for step in range(1, 6))


@pytest.mark.thorough
def test_sharded_over_two_processes_it_gives_what_copies_give_and_goes_on(twice, tmp_path):
    sharded = run(tmp_path, 12, "shard", processes=2)
    # The last steps of a shorter run have a smaller rate.
    assert all(sharded[step] == pytest.approx(twice[step], rel=1e-3) for step in range(1, 10))
    assert load_file(tmp_path / "weights.safetensors")["first.weight"].shape == (32, 8)
    assert len(run(tmp_path, 16, "shard", processes=2)) == 16


def test_a_loss_that_is_no_number_ends_it(tmp_path):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        loop_script.main(tmp_path, 5, "nan")


def test_a_time_budget_ends_the_run_with_its_rate_at_zero(tmp_path):
    torch.manual_seed(0)
    part = PartSettings(steps=10**9, batch=4, log_every=1, checkpoint_every=10**6, precision="float32")
    told: list[Progress] = []
    train(part, loop_script.Fit(False), loop_script.Points(False), tmp_path, 0, told.append, minutes=0.02)
    assert told[-1].share >= 1.0
    assert (tmp_path / "weights.safetensors").is_file()
    assert told[0].seconds_left > 0


def test_batches_are_permutations_and_processes_share_them():
    def some(**options):
        order = iter(BatchOrder(12, 4, 5, **options))
        return [next(order) for _ in range(6)]

    alone = some()
    assert sorted(n for batch in alone[:3] for n in batch) == list(range(12))
    assert sorted(n for batch in alone[3:] for n in batch) == list(range(12))
    assert alone[:3] != alone[3:]
    assert some(start=2)[:4] == alone[2:]
    first, second = some(place=(0, 2)), some(place=(1, 2))
    assert [batch for pair in zip(first[:3], second[:3], strict=True) for batch in pair] == alone


def test_the_rate_rises_stays_and_falls_to_zero():
    part = PartSettings(steps=100, warmup=10, decay=0.2)
    assert rate(part, 0, 0.0) == pytest.approx(0.1)
    assert rate(part, 9, 0.1) == rate(part, 50, 0.5) == 1.0
    assert rate(part, 90, 0.9) == pytest.approx(0.5)
    assert rate(part, 99, 1.0) == 0.0


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest():
    muon, adamw = optimisers(PartSettings(steps=1, optimiser="muon"), loop_script.Fit(False))
    assert {tuple(p.shape) for group in muon.param_groups for p in group["params"]} == {(32, 32)}
    assert sum(len(group["params"]) for group in adamw.param_groups) == 4 + 4
    with pytest.raises(ConfigError, match="adamw, muon; got 'sgd'"):
        optimisers(PartSettings(steps=1, optimiser="sgd"), loop_script.Fit(False))


def matrices(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 1e-6), (torch.float32, 0.02)])
def test_muon_is_torchs_with_matrices_of_one_shape_taken_together(dtype, near):
    shapes = (32, 32), (64, 16), (16, 64), (32, 32)
    ours, theirs, before = matrices(*shapes), matrices(*shapes), matrices(*shapes)
    part = PartSettings(steps=1, learning_rate=1e-2, weight_decay=0.1)
    muon = Muon(ours, part, dtype)
    torchs = torch.optim.Muon(theirs, 1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for a, b, gradient in zip(ours, theirs, matrices(*shapes), strict=True):
            a.grad = gradient.detach() * (step + 1.0)
            b.grad = a.grad.clone()
        muon.step()
        torchs.step()
    for a, b, start in zip(ours, theirs, before, strict=True):
        assert (a - b).norm() <= near * (b - start).norm()
    singular = torch.linalg.svdvals(orthogonal(torch.stack([ours[0], ours[3]]).detach()))
    assert 0.3 < singular.min() < singular.max() < 1.3
    assert torch.linalg.svdvals(ours[0].detach()).max() > 5.0


def test_precision_is_what_the_machine_has_and_is_checked(monkeypatch):
    assert lowered("bf16")
    assert not lowered("float32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert lowered("auto") == has
    with pytest.raises(ConfigError, match="auto, bf16, float32; got 'fp16'"):
        lowered("fp16")
