"""The proof on a robot PC, rehearsed on engines with ONNX Runtime's numbers: every part runs, and fails if it has to."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from gpu_doubles import ExecutionContext

from dvgwm.runtime.backends.tensorrt.engine import TensorrtBackend
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config import plugins
from dvgwm.runtime.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "benchmarks" / "robot_pc"
pytestmark = [pytest.mark.ort, pytest.mark.slow]


@pytest.fixture
def proof(monkeypatch):
    """The modules of the proof; they are scripts."""
    monkeypatch.syspath_prepend(FOLDER)
    names = ("bench", "comparison", "lora", "needs", "proofs", "rows")
    yield {name: __import__(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def bench(proof, world, tmp_path):
    backend = TensorrtBackend(world.module(), world.device)
    bundle = read_bundle(plugins.shipped("a1_tiny"))

    def opened(name):
        if name == "onnx_cuda":
            raise ConfigError("ONNX_GPU", "wanted an ONNX Runtime with CUDA")
        return backend if name == "tensorrt" else plugins.open_backend(name, None)

    key = proof["bench"].key_of(bundle, backend.compiler.facts)
    return proof["bench"].ProvenBundle(
        bundle, opened, tmp_path / "cache", tmp_path / "work", tmp_path / "rows.jsonl", 2, key
    )


def rows_of(bench):
    return [json.loads(line) for line in bench.out.read_text().splitlines()]


@pytest.mark.thorough
def test_every_part_but_the_memory_is_rehearsed(proof, bench, capsys):
    parts = [part for part in proof["proofs"].WORK if part != "memory"]
    for part in parts:
        proof["proofs"].run(part, bench)
    rows = rows_of(bench)
    assert [row["part"] for row in rows] == parts
    for row in rows:
        assert row["fine"], row
        assert {"key", "bundle", "precision", "machine", "took_s", "told"} <= row.keys()
    by_part = {row["part"]: row for row in rows}
    distances = by_part["engines"]["distances"]
    assert all(found["max_abs"] == 0.0 for found in distances.values()), "the double is the reference itself"
    assert len({name.split()[0] for name in distances}) == len(by_part["compile"]["seconds"]) == 9
    assert by_part["lora"]["refitted"] == {"encode_low.onnx": True, "preview.onnx": True}
    assert by_part["speed"]["tensorrt"]["plan_s"] > 0
    assert "wanted an ONNX Runtime with CUDA" in by_part["speed"]["onnx_cuda"]
    text, fine = proof["rows"].summary(bench.out, list(proof["proofs"].WORK), bench.key)
    assert not fine
    assert text.count("proven") == len(parts)
    assert "memory  not done" in text
    assert all(proof["rows"].recorded(bench.out, part, bench.key) for part in parts)
    assert not proof["rows"].recorded(bench.out, "compile", "another key")


def test_memory_in_use_is_held_against_what_was_counted(proof, bench, world, monkeypatch):
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-core is not installed")
    total = 10**11
    monkeypatch.setattr(driver, "cuMemGetInfo", lambda: (0, total - sum(world.device.blocks.values()), total))
    facts, fine, told = proof["proofs"].memory(bench)
    assert 1e6 < facts["used_bytes"] < 1e9, "places of inputs and outputs, and no more"
    assert facts["off"] == pytest.approx(facts["used_bytes"] / facts["counted_bytes"] - 1)
    assert not fine, "the double's weights are the host's"
    assert "counted" in told


def test_what_is_needed_is_there_or_has_a_remedy(proof, monkeypatch):
    needs = proof["needs"]
    lacking = needs.missing(None)
    monkeypatch.setattr(needs, "_gpu", lambda: "NVIDIA H100, 9.0, 580.95")
    monkeypatch.setattr(needs, "_kernels", lambda: "sm_90")
    monkeypatch.setattr(needs, "_version", lambda module: "11.4")
    assert needs.missing(None) == []
    assert "MISSING" not in needs.show(None)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    assert needs.missing(None) == ["room for engines: free some, or set XDG_CACHE_HOME"]
    assert all(": " in each for each in lacking)


def test_other_weights_are_other_numbers(proof, bench):
    """The control of the part `lora`: the changed bundle's preview is not the first one's."""
    other = proof["lora"].changed(bench.bundle, bench.work / "lora")
    sources = proof["comparison"].sources
    (one,), (two,) = (
        [source for source in sources(each, each.manifest.pipeline) if source.spec.file == "preview.onnx"]
        for each in (bench.bundle, other)
    )
    assert (one.graph, one.weights == two.weights) == (two.graph, False)
    inputs = proof["comparison"]._drawn(one, 1)
    exact = bench.open("onnx")
    (left,), (right,) = (proof["comparison"]._outputs(exact, each.path, each, inputs) for each in (one, two))
    assert np.abs(left - right).max() > 1e-2


@pytest.mark.thorough
def test_engines_that_are_not_right_are_found(proof, bench, monkeypatch):
    execute = ExecutionContext.on_execute_async_v3

    def spoiled(self, stream):
        execute(self, stream)
        if any(part.name == "velocity" for _, part in self.state["of"].parts):
            address, world = self.state["addresses"]["velocity"], self.world
            world.device.enqueue(lambda: scaled(world.device.array(address, (1000,), "float32")))
        return True

    def scaled(numbers):
        numbers *= 1.01

    monkeypatch.setattr(ExecutionContext, "on_execute_async_v3", spoiled)
    for part in ("engines", "plan"):
        proof["proofs"].run(part, bench)
    for row in rows_of(bench):
        assert not row["fine"]
        assert "wanted a max_abs error" in row["told"]
    _, fine = proof["rows"].summary(bench.out, ("engines", "plan"), bench.key)
    assert not fine
    assert not proof["rows"].recorded(bench.out, "plan", bench.key)


def test_a_row_that_was_cut_off_is_no_row(proof, tmp_path):
    out = tmp_path / "rows.jsonl"
    proof["rows"].append(out, {"part": "plan", "key": "k", "fine": True, "told": "same"})
    with out.open("a") as file:
        file.write('{"part": "speed", "key": "k", "fi')
    assert proof["rows"].newest(out, "k").keys() == {"plan"}


def test_the_command_says_first_what_it_needs(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER, "--out", tmp_path / "rows"], capture_output=True, text=True, timeout=120
    )
    if done.returncode != 2:
        pytest.skip("this machine has a GPU and TensorRT: the proof itself ran")
    assert done.stdout.startswith("it needs\n")
    assert "a bundle of ONNX graphs" in done.stdout
    assert "tensorrt " in done.stdout
    assert "MISSING: pip install 'dvgwm[tensorrt]'" in done.stdout
    assert done.stderr.startswith("E2 PROVE_NEEDS")
    assert not (tmp_path / "rows").exists()
