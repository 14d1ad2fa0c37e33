"""`test_tiny`, every class of the full-size system, from weights to a verified bundle."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from dvgwm.export import assembly as building
from dvgwm.export import products
from dvgwm.export.assembly import build_bundle
from dvgwm.export.graphs import decoders, graphs
from dvgwm.export.intake import intake
from dvgwm.export.interface import engine_spec, run_module
from dvgwm.export.onnx_graph import export_onnx
from dvgwm.export.order import STEPS, Order, read_instructions
from dvgwm.export.parity import BFLOAT16, LOSSLESS, ParityError, gate, tolerance
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.sizes import LinearCodecSize
from dvgwm.runtime.backends.onnx import open_backend
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.errors import BundleIncompatibleError, ConfigError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import Observation

pytestmark = [pytest.mark.torch, pytest.mark.ort, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def silent(step: str, part: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """test_tiny, built once; stopped after the export to see that it is taken up again."""
    out = tmp_path_factory.mktemp("engines") / "test_tiny"
    first = build_bundle(Order("test_tiny", "onnx", out, 0, ("export",)), silent)
    assert first.bundle is None
    assert not out.exists()
    proven = build_bundle(Order("test_tiny", "onnx", out, 0, STEPS[:3], engines=("policy", "encode_low")), silent)
    assert (proven.bundle, proven.made, set(proven.parity)) == (None, (), {"policy", "encode_low"})
    assert not out.exists()
    second = build_bundle(Order("test_tiny", "onnx", out, 0, STEPS, ("stack the cube",)), silent)
    return first, second


@pytest.mark.thorough
def test_a_build_goes_on_and_leaves_only_the_bundle(built):
    first, second = built
    assert len(first.made) == 9 + 6, "graphs, and the weights of every network"
    assert second.made == ()
    assert second.reused == first.made
    assert [entry.name for entry in second.bundle.path.parent.iterdir()] == ["test_tiny"]
    assert set(second.seconds) >= {"preview", "refine", "decode", "act", "plan"}


@pytest.mark.thorough
def test_the_bundle_says_what_it_is(built):
    manifest = read_bundle(built[1].bundle.path, "onnx").manifest
    assert not manifest.model.trained
    assert "untrained" in manifest.model.weights
    assert all(parity.max_abs <= parity.tolerance for parity in manifest.parity.values())
    assert {"plan: actions", "plan: high_latents", "preview", "policy"} <= set(manifest.parity)
    assert all(engine.flop > 0 for stage in manifest.pipeline for engine in stage.engines.values())
    bridge = manifest.stage("bridge").constants
    assert bridge["scale"][0] == pytest.approx(1.64655, abs=1e-5)
    assert (bridge["signal"], bridge["strength"]) == (pytest.approx(0.859, abs=5e-4), pytest.approx(0.513, abs=1e-3))


@pytest.mark.thorough
def test_the_networks_of_a_bundle_are_taken_up_from_it_and_are_as_trained_as_it_says(built):
    bundle, size = built[1].bundle, preset("test_tiny")
    again = intake(Order("test_tiny", "onnx", bundle.path, 5, weights=bundle.path), size)
    assert (again.told, again.trained) == (bundle.manifest.model.weights, bundle.manifest.model.trained)
    held = intake(Order("test_tiny", "torch", bundle.path, 5, weights=bundle.path), size).stored.networks
    other = intake(Order("test_tiny", "onnx", bundle.path, 5), size).stored
    for part, network in again.stored.networks.parts().items():
        source, here = again.stored.sources[part], held.parts()[part].state_dict()
        assert all(torch.equal(source.read(name), here[name]) for name in source.dtypes), part
        weight = max(source.dtypes, key=lambda name: source.read(name).numel())
        assert not torch.equal(other.sources[part].read(weight), source.read(weight)), part
        assert network.state_dict().keys() == here.keys()


@pytest.mark.thorough
def test_it_runs_without_its_torch_half(built):
    bundle = read_bundle(built[1].bundle.path, "onnx")
    contract = bundle.manifest.input
    image = np.full((contract.height_px, contract.width_px, 3), 99, np.uint8)
    seen = [Observation({"scene": image}, np.zeros(7), 0.0)]
    with Pipeline(bundle, open_backend(1)) as pipeline:
        plan = pipeline.imagine(seen, "push the cube", 0)
        chunk = pipeline.act(plan, seen, "push the cube")
        again = pipeline.imagine(seen, "push the cube", 0)
        assert pipeline.prompts.known() == ("stack the cube",)
    assert plan.frames.shape == (49, 64, 96, 3)
    assert chunk.actions.shape == (48, 7)
    assert np.array_equal(plan.frames, again.frames)


@pytest.mark.thorough
def test_streaming_decode_in_onnx_is_diffusers_full_decode_and_stops_early_exactly(tmp_path):
    size = preset("test_tiny")
    networks = build(size, 0)
    latents = torch.randn(1, 13, size.codec.channels, *size.grid(size.high), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        raw = (latents / 1.15258426).transpose(1, 2)
        full = networks.codec.decode(raw).sample.mul(0.5).add(0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()
    engines = []
    for graph in decoders(size, networks, quantise=False):
        export_onnx(graph.module, graph.inputs, graph.outputs, graph.dynamic, tmp_path / graph.file)
        engines.append(open_backend(1).load(tmp_path / graph.file, engine_spec(graph)))

    def decode(count: int) -> np.ndarray:
        outputs = dict(engines[0].run({"latents": latents[:, :3].numpy()}))
        frames = [np.array(outputs.pop("frames"))]
        for begin in range(3, count, 2):
            cache = {engines[1].spec.carry[name]: tensor for name, tensor in outputs.items()}
            outputs = dict(engines[1].run({"latents": latents[:, begin : begin + 2].numpy(), **cache}))
            frames.append(np.array(outputs.pop("frames")))
        return np.concatenate(frames, 1)

    streamed = decode(13)
    assert [decode(k).shape[1] for k in (3, 5, 7)] == [9, 17, 25]
    assert np.abs(streamed - full).max() < 1e-5
    assert np.array_equal(decode(7), streamed[:, :25])
    assert full.std() > 0.01, "a flat picture would prove nothing"


def test_guidance_branches_are_computed_apart():
    size = preset("test_tiny")
    graph = next(g for g in graphs(size, build(size, 0)) if g.name == "preview")
    inputs = dict(graph.inputs)
    with torch.no_grad():
        (both,) = run_module(graph.module, inputs.values())
        (alone,) = run_module(graph.module, (inputs | {"text": inputs["text"][1:]}).values())
    assert torch.allclose(both[1:], alone, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_a_failed_gate_writes_no_bundle(tmp_path, monkeypatch):
    def spoil(*arguments):
        raise ParityError("PARITY", "preview: too far")

    monkeypatch.setattr(building, "engine_parity", spoil)
    monkeypatch.setattr(products, "export_onnx", lambda m, i, o, d, path, *_: path.write_bytes(b"\x08"))
    monkeypatch.setattr(building, "check_graph", lambda path: None)
    monkeypatch.setattr(building, "with_footprints", lambda manifest, files: manifest)
    with pytest.raises(ParityError):
        build_bundle(Order("test_tiny", "onnx", tmp_path / "b", 0), silent)
    assert not (tmp_path / "b").exists()


@pytest.mark.thorough
def test_a_preview_with_waypoints_exports_for_any_number_of_branches(tmp_path):
    size = preset("test_tiny")
    told = replace(size.preview, predicts="clean", waypoints=2)
    size = replace(size, preview=told, refiner=None, codec=LinearCodecSize(8, 4))
    made = next(graph for graph in graphs(size, build(size, 0)) if graph.name == "preview")
    export_onnx(made.module, made.inputs, made.outputs, made.dynamic, tmp_path / made.file, made.opset)
    engine = open_backend(1).load(tmp_path / made.file, engine_spec(made))
    for branches in (1, 2, 3):
        inputs = dict(made.inputs) | {"text": torch.randn(branches, *made.inputs["text"].shape[1:])}
        with torch.no_grad():
            (wanted,) = run_module(made.module, list(inputs.values()))
        got = engine.run({name: tensor.numpy() for name, tensor in inputs.items()})["velocity"]
        assert got.shape[0] == branches
        assert np.abs(got - wanted.numpy()).max() < 1e-4


def test_the_gate_fails_on_distance_on_staleness_and_on_nan():
    right, other = [np.ones(4)], [np.zeros(4)]
    assert gate("x", right, [np.ones(4) + 1e-6], other, LOSSLESS, 1e-4).max_abs == pytest.approx(1e-6)
    for got, far, code in (
        ([np.ones(4) + 1e-3], other, "PARITY"),
        ([np.full(4, np.nan)], other, "PARITY"),
        ([np.ones(4)], [np.ones(4)], "PARITY_CONTROL"),
    ):
        with pytest.raises(ParityError) as caught:
            gate("x", right, got, far, LOSSLESS, 1e-4)
        assert caught.value.log_code == code


def test_what_is_lossless_grows_with_float32_numbers_and_with_nothing_else():
    small, large = [np.full(4, 0.2, np.float32)], [np.ones(3, np.float32), np.array([-5.0], np.float32)]
    assert (tolerance(LOSSLESS, small), tolerance(LOSSLESS, large)) == pytest.approx((1e-4, 5e-4))
    assert tolerance(LOSSLESS, [np.full(4, 200, np.uint8)]) == 1.0
    assert tolerance(BFLOAT16, large) == 0.045


def test_a_bounded_gate_measures_relative_error_around_middle_grey():
    bright, other = [np.full(100, 250, np.uint8)], [np.zeros(100, np.uint8)]
    made = gate("x", bright, [np.full(100, 251, np.uint8)], other, BFLOAT16, 0.045)
    assert (made.measure, made.max_abs) == ("relative_l2", 1.0)
    assert made.relative_l2 == pytest.approx(1 / 122.5)
    with pytest.raises(ParityError, match="relative_l2"):
        gate("x", bright, [np.full(100, 240, np.uint8)], other, BFLOAT16, 0.045)


@pytest.mark.parametrize(
    ("order", "log_code"),
    [
        (("giant", "onnx"), "PRESET_UNKNOWN"),
        (("a1_tiny", "abacus"), "BACKEND_BUILD"),
        (("test_wan", "torch"), "BACKEND_FAMILY"),
    ],
)
def test_what_cannot_be_built_is_refused(tmp_path, order, log_code):
    with pytest.raises(ConfigError) as caught:
        build_bundle(Order(*order, tmp_path / "b", 0), silent)
    assert (caught.value.exit_code, caught.value.log_code) == (2, log_code)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_torch_cannot_take_is_refused(tmp_path, seed):
    with pytest.raises(ConfigError, match="--random-weights"):
        build_bundle(Order("test_tiny", "onnx", tmp_path / "b", seed), silent)


def test_an_engine_that_the_preset_has_not_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match="wanted --engines of text_encoder, encode_low"):
        build_bundle(Order("test_tiny", "onnx", tmp_path / "b", 0, STEPS[:3], engines=("refiner",)), silent)
    assert not list(tmp_path.iterdir())


def test_an_occupied_directory_is_refused_before_any_work(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        build_bundle(Order("test_tiny", "onnx", tmp_path, 0), silent)
    assert caught.value.log_code == "OUT_OCCUPIED"


def test_instructions_are_read_one_a_line(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("# tasks\nstack the cube\n\n  open the drawer \n")
    assert read_instructions(path) == ("stack the cube", "open the drawer")
    path.write_bytes(b"\xef\xbb\xbfstack the cube\r\nopen the drawer\r\n")
    assert read_instructions(path) == ("stack the cube", "open the drawer"), "as an editor on Windows writes it"
    path.write_text("\n")
    for wrong in (path, tmp_path / "none.txt"):
        with pytest.raises(ConfigError):
            read_instructions(wrong)


def script(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "export" / "build_engines.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_the_scripts_errors_are_one_line_with_an_exit_code(tmp_path):
    done = script("--preset", "giant", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("E2 PRESET_UNKNOWN wanted a preset of a1_tiny")
    assert len(done.stderr.splitlines()) == 1
    done = script("--presett", "giant", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("E2 USAGE unrecognized arguments: --presett giant")


def test_uninstalled_it_says_what_to_install(tmp_path):
    shutil.copytree(ROOT / "export", tmp_path / "export")
    command = [sys.executable, "-I", "-S", str(tmp_path / "export" / "build_engines.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install -e '.[export]'" in done.stderr
    assert "--preset" in script("--help").stdout


@pytest.mark.thorough
def test_the_script_builds_a_bundle_without_a_text_encoder_that_knows_its_instructions_only(tmp_path):
    (tmp_path / "tasks.txt").write_text("stack the cube\n")
    asked = "--preset test_tiny --layers 1 --frames 9 --steps verify --out b --static --no-text-encoder"
    done = script(*asked.split(), "--instructions", "tasks.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["preset"] == "test_tiny"
    assert len(facts["made"]) == 9 + 6
    assert "export 1 of 15: preview.safetensors" in done.stdout, "progress, a line each where there is no terminal"
    bundle = read_bundle(tmp_path / "b", "onnx")
    engines = {engine.file: engine for stage in bundle.manifest.pipeline for engine in stage.engines.values()}
    sizes = {part.shape for engine in engines.values() for part in (*engine.inputs, *engine.outputs)}
    assert all(isinstance(size, int) for shape in sizes for size in shape), "--static leaves none open"
    assert engines["preview.onnx"].input("text").shape[0] == 2
    assert engines["refine.onnx"].input("text").shape[0] == 1
    assert not any(name.startswith("text") for name in bundle.manifest.files)
    contract = bundle.manifest.input
    seen = [Observation({"scene": np.full((contract.height_px, contract.width_px, 3), 99, np.uint8)}, np.zeros(7), 0.0)]
    with Pipeline(bundle, open_backend(1)) as pipeline:
        assert pipeline.imagine(seen, "stack the cube", 0).frames.shape == (9, 64, 96, 3)
        with pytest.raises(BundleIncompatibleError, match="nearest known: stack the cube"):
            pipeline.imagine(seen, "stack the cubes", 0)


def test_without_instructions_the_text_encoder_stays(tmp_path):
    with pytest.raises(ConfigError, match="--instructions"):
        Order("test_tiny", "onnx", tmp_path / "c", 0, text_encoder=False).checked()


@pytest.mark.parametrize("given", [{"layers": 3}, {"layers": -1}, {"frames": 10}, {"frames": 57}])
def test_what_a_preset_cannot_be_shortened_to_is_refused(tmp_path, given):
    with pytest.raises(ConfigError, match="wanted --"):
        Order("test_tiny", "onnx", tmp_path / "c", 0, **given).checked()


@pytest.mark.longest
@pytest.mark.thorough
@pytest.mark.parametrize("name", ["test_tiny", "test_wan"])
def test_graphs_in_bfloat16_are_valid_and_their_interface_is_float32_but_for_the_cache(tmp_path, name):
    """ONNX Runtime on a CPU cannot run them; ONNX's own checker infers every type."""
    order = Order(
        name, "onnx", tmp_path / "b", 0, ("export", "build"), precision="bfloat16", layers=1, frames=9, static=True
    )
    made = build_bundle(order, silent)
    assert len(made.unsupported) >= 8
    assert not any(made.unsupported.values()), "TensorRT's list has every operator of graphs of fixed sizes"
    engines = [engine for stage in made.manifest.pipeline for engine in stage.engines.values()]
    assert all(0 < engine.footprint.working_bytes <= engine.footprint.unfused_bytes for engine in engines)
    for path in (tmp_path / ".b.build").glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False).graph
        kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        half = {part for part, kind in kinds.items() if kind == onnx.TensorProto.BFLOAT16}
        weights = {
            tensor.data_type for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL
        }
        assert all("conv" in part for part in half), half
        assert bool(half) == path.name.startswith("decode")
        assert (onnx.TensorProto.BFLOAT16 in weights) == (path.stem not in ("policy", "frame_encoder")), path.name
    with pytest.raises(ConfigError, match="--steps build"):
        replace(order, steps=STEPS).checked()


@pytest.mark.longest
@pytest.mark.thorough
@pytest.mark.parametrize("name", ["test_tiny", "test_wan"])
def test_a_bundle_in_float16_passes_its_gates_against_float32(tmp_path, name):
    made = build_bundle(
        Order(name, "onnx", tmp_path / "b", 0, STEPS[:3], precision="float16", layers=1, frames=9), silent
    )
    parity = made.bundle.manifest.parity
    assert {part.tolerance for part in parity.values() if part.measure == "relative_l2"} == {0.01, 0.05}
    assert 1e-5 < parity["preview"].relative_l2 < 0.01, "it is rounded, and is compared with what is not"
    assert parity["policy"].measure == "max_abs"
    kinds = {graph.name: graph.read_bytes().count(b"safetensors") for graph in made.bundle.path.glob("*.onnx")}
    assert all(kinds.values()), "every graph reads its weights from the network's files"


@pytest.mark.thorough
def test_no_graph_of_a_wan_scatters_and_each_attention_is_one_operator(tmp_path):
    size = preset("test_wan").shortened(2, 9)
    made = next(graph for graph in graphs(size, build(size, 0)) if graph.name == "preview")
    export_onnx(made.module, made.inputs, made.outputs, made.dynamic, tmp_path / made.file, made.opset)
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / made.file, load_external_data=False).graph.node)
    assert kinds["Attention"] == 3 * 2, "itself, the text, the picture"
    assert not any(kind.startswith("Scatter") for kind in kinds)
