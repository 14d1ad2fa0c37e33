"""Faults of a GPU's hour, each found here without one, on shapes or on a small network."""

import os
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")

from torch import nn

from benchmarks.gpu import calls, decoder, denoisers, product
from benchmarks.gpu.denoisers import Denoiser, floor_s
from benchmarks.gpu.measure import relative, watched_card
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.report import advice
from benchmarks.gpu.setting import Setting
from dvgwm.export.graphs import graphs
from dvgwm.export.interface import engine_spec
from dvgwm.models.networks import build
from dvgwm.models.precision import precision
from dvgwm.models.presets import preset
from dvgwm.runtime.backends.torch import open_backend

pytestmark = pytest.mark.torch
TINY = preset("test_tiny")


@pytest.mark.parametrize("name", ["bfloat16", "fp8_kernel"])
def test_every_graph_is_made_where_its_networks_are(name):
    """On shapes alone, as on a GPU: a constant on the host cannot be computed with."""
    made = graphs(TINY, build(TINY, 0, "meta"), precision(name))
    assert {graph.name for graph in made} >= {*product.ENGINES}
    for graph in made:
        if graph.name in product.ENGINES:
            graph.module.to("meta")
            with torch.no_grad():
                out = graph.module(*(tensor.to("meta") for tensor in graph.inputs.values()))
            assert all(tensor.device.type == "meta" for tensor in (out if isinstance(out, tuple) else (out,)))


def test_the_work_of_an_engine_is_counted_without_numbers():
    """Of a denoiser, and of its modulations: torch's ``to`` may refuse tensors without numbers."""
    engines = ("preview", "modulate_preview")
    work = {engine: engine_spec(product.plain_graph_of(TINY, engine)).flop for engine in engines}
    assert all(flop > 0 for flop in work.values())
    assert work["preview"] > 100 * work["modulate_preview"]


@pytest.fixture
def bench():
    return SimpleNamespace(device="cpu", small=True, place_for=lambda numbers: "cpu", ceilings=dict)


def test_the_error_sees_attention(bench, monkeypatch):
    """Queries off by a tenth change the velocity; with random norms attention is nearly uniform and hides them."""

    def error(peaked):
        monkeypatch.setattr(denoisers, "PEAKED", peaked)
        made = Denoiser(bench, TINY, TINY.preview, TINY.low, 2, flow=False)
        network = made.plain.float()
        exact = made.velocity(made.engine(network))
        for block in network.transformer_blocks:
            block.attn1.norm_q.weight.mul_(1.1)
        return relative(made.velocity(made.engine(network)), exact)

    assert error(denoisers.PEAKED) > 2 * error(1.0)


@contextmanager
def card(device):
    yield {"clock_mhz": 1710.0, "power_w": 698.5}


def test_the_error_is_of_velocities_and_every_row_has_clock_and_power(bench, monkeypatch):
    """A few steps of a sampler would divide a velocity's error by 20 to 30."""
    rows = []
    bench.rounds, bench.median, bench.row = 1, lambda *_: 1.0, lambda title, **row: rows.append(row)
    made = Denoiser(bench, TINY, TINY.preview, TINY.low, 2, flow=False, referenced=True)
    network = made.plain.float()
    run = made.engine(network)
    assert torch.equal(made.velocity(run), run(made.state, made.time))
    assert relative(made.reference, run(made.state, made.time)) < 0.02, "float32's own"
    nn.Module.to(network, torch.bfloat16)
    monkeypatch.setattr(denoisers, "watched_card", card)
    denoisers.measure(bench, "preview forward", made, "diffusers eager", 50)
    assert rows[0]["relative_l2"] == relative(made.velocity(run, torch.bfloat16), made.reference)
    assert (rows[0]["clock_mhz"], rows[0]["power_w"]) == (1710.0, 698.5)


def test_a_floor_is_of_the_rates_that_a_variant_uses():
    rates = {"bf16": 1.0, "fp8": 2.0}
    work = {"flop": 100.0, "attention_flop": 40.0, "layers": 6}
    inner = 60.0 * 4 / 6
    assert floor_s(**work, name="bfloat16_kernel", rates=rates) == 100.0
    assert floor_s(**work, name="fp8_kernel", rates=rates) == pytest.approx(100.0 - inner / 2)
    assert floor_s(**work, name="fp8_8bit", rates=rates) == pytest.approx(100.0 - (inner + 20.0) / 2)
    assert floor_s(**work, name="fp8_fp8", rates=rates) == pytest.approx(100.0 - (inner + 40.0) / 2)
    assert floor_s(**work, name="bfloat16", rates={"bf16": 1.0}) is None


def test_a_plans_memory_is_counted_without_that_of_its_build(monkeypatch):
    order = []

    class OpenedError(Exception):
        pass

    def opened(*arguments):
        order.append("pipeline")
        raise OpenedError

    monkeypatch.setattr(product, "forget_peak", lambda device: order.append("forget"))
    monkeypatch.setattr(product, "Pipeline", opened)
    contract = SimpleNamespace(camera="scene", height_px=8, width_px=8)
    manifest = SimpleNamespace(input=contract, action=SimpleNamespace(names=("x",)))
    with pytest.raises(OpenedError):
        product.measure(SimpleNamespace(device="cpu"), "fp8_kernel", SimpleNamespace(manifest=manifest))
    assert order == ["forget", "pipeline"]


def test_measured_packages_are_those_of_the_printed_command():
    setting = Setting("fp8_kernel", 8.0, 0.9, 0.7, 6.0, 7e-4, 16.0)
    assert " --static --precision fp8_kernel`" in advice((setting,), "dvgwm_5b")
    made = [fixed for fixed in (product._named(TINY, "preview", graphs(TINY, build(TINY, 0))),) if fixed.dynamic]
    assert not made


def test_attention_is_measured_first_and_a_plan_right_after_the_decoder(tmp_path):
    order = list(PARTS)
    assert order[:2] == ["ceilings", "attention"]
    assert order[order.index("decode") + 1] == "plan"
    packed = calls.packed(list(PARTS.values()), {part.name: part.minutes for part in PARTS.values()})
    names = [[part.name for part in call] for call in packed]
    after = next(index for index, call in enumerate(names) if "decode" in call)
    assert "plan" in names[after] + names[after + 1][:1]


def test_the_decoder_is_measured_as_the_product_runs_it_and_with_cudnns_search(monkeypatch):
    """The search may change the bits of a plan from process to process: the product leaves it off, whoever had it on."""
    measured, rows = {}, []
    work = dict.fromkeys(
        ("diffusers eager", "bfloat16", "bfloat16, early exit", f"bfloat16{decoder.SEARCHED}"),
        lambda: torch.zeros(1, 9, 2, 2, 3, dtype=torch.uint8),
    )
    monkeypatch.setattr(decoder, "Decoders", lambda size, device: SimpleNamespace(works=lambda: work))

    def timed(work, rounds, device):
        measured[names[-1]] = torch.backends.cudnn.benchmark
        return {"median_s": 1.0}

    names = []

    @contextmanager
    def trying(title, name):
        names.append(name)
        yield

    monkeypatch.setattr(decoder, "timed", timed)
    monkeypatch.setattr(decoder, "watched_card", card)
    monkeypatch.setattr(decoder, "size_of", lambda bench: None)
    bench = SimpleNamespace(
        device="cpu", small=True, rounds=1, trying=trying, wanted=lambda title, names: names, refused=lambda *_: False,
        median=lambda *_: 1.0, row=lambda title, **row: rows.append(row),
    )  # fmt: skip
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = True
        decoder.run_decode(bench)
        open_backend(1)
        assert torch.backends.cudnn.benchmark is False
    finally:
        torch.backends.cudnn.benchmark = before
    assert measured == {name: name.endswith(decoder.SEARCHED) for name in work}
    assert {row["variant"] for row in rows} == set(work)
    assert all((row["clock_mhz"], row["power_w"]) == (1710.0, 698.5) for row in rows)


def test_clock_and_power_are_those_of_the_timed_runs(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho none\nfor clock in 1980 1500 1710; do echo "$clock, 698.5"; done\nexec sleep 60\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with watched_card("cuda") as told:
        time.sleep(0.5)
    assert told == {"clock_mhz": 1710.0, "power_w": 698.5}
    with watched_card("cpu") as told:
        pass
    assert told == {}
