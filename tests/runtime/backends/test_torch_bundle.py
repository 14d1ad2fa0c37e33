"""Bundles of compiled packages: their manifest, a whole plan, every precision."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")

from safetensors import safe_open

from dvgwm.export.aoti import export_package, traced, write_weights
from dvgwm.export.assembly import build_bundle
from dvgwm.export.interface import engine_spec
from dvgwm.export.order import STEPS, Order
from dvgwm.runtime.backends.torch.engine import TorchBackend, _laid, fingerprint, open_backend
from dvgwm.runtime.bundle.disk import Bundle, read_bundle
from dvgwm.runtime.errors import BundleIncompatibleError, ConfigError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import Observation

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.thorough]


def silent(step, part, done, total):
    pass


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """test_tiny compiled, verified against torch stage by stage and as a plan, and written."""
    out = tmp_path_factory.mktemp("engines") / "test_tiny"
    return build_bundle(Order("test_tiny", "torch", out, 0, STEPS[:3]), silent).bundle


def test_a_compiled_bundle_says_what_it_was_compiled_for(bundle):
    manifest = read_bundle(bundle.path, "torch").manifest
    assert (manifest.backend, manifest.precision) == ("torch", "float32")
    assert dict(manifest.fingerprint) == fingerprint(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    assert {"plan: actions", "preview", "decode_next (uint8)"} <= set(manifest.parity)
    assert all(parity.max_abs <= parity.tolerance for parity in manifest.parity.values())


def test_modulations_are_made_once_for_all_plans(bundle):
    """Their engines' memory is free after the pipeline has opened, and their weights are in no other file."""
    with Pipeline(bundle, open_backend(None)) as pipeline:
        for name, rows in (("preview", 4), ("refine", 4)):
            stage = next(stage for stage in pipeline.stages if stage.spec.name == name)
            assert len(stage.modulations) == len(stage.sampler.steps) >= rows
            assert stage.engines["modulate"]._engine is None
            assert {part.name for part in stage.engines["denoise"].spec.inputs} >= {"time", "modulation"}
    held = {path.name: path.stat().st_size for path in bundle.path.glob("*.safetensors")}
    assert held["modulate_preview.safetensors"] > 10_000
    names = safe_open(bundle.path / "preview.safetensors", "pt").keys()
    assert not [name for name in names if "modulations" in name]


def test_another_machine_refuses_it_with_the_command(bundle):
    other = replace(bundle.manifest, fingerprint=dict(bundle.manifest.fingerprint) | {"torch": "1.0"})
    with pytest.raises(BundleIncompatibleError, match=r"torch 1\.0 .*--preset test_tiny --backend torch --precision"):
        Pipeline(Bundle(bundle.path, other), open_backend(None))


def test_a_plan_is_the_same_every_time_and_stops_early_exactly(bundle):
    contract = bundle.manifest.input
    image = np.random.default_rng(0).integers(0, 256, (contract.height_px, contract.width_px, 3), np.uint8)
    seen = [Observation({contract.camera: image}, np.zeros(7), 0.0)]
    with Pipeline(bundle, open_backend(None)) as pipeline:
        pipeline.warmup()
        plans = [pipeline.imagine(seen, "push the cube", seed) for seed in (3, 3, 4)]
        chunk = pipeline.act(plans[0], seen, "push the cube")
        stage = next(stage for stage in pipeline.stages if stage.spec.name == "decode")
        latents = pipeline.backend.upload(plans[0].latents["high_latents"])
        head = stage.engines["decode_first"].run({"latents": latents[:, :3]})["frames"]
    assert np.array_equal(plans[0].frames, plans[1].frames)
    assert not np.array_equal(plans[0].frames, plans[2].frames)
    assert np.array_equal(np.asarray(head)[0], plans[0].frames[:9])
    assert chunk.actions.shape == (48, 7)


def test_carried_tensors_need_no_copy(bundle, monkeypatch):
    """The decoder's cache comes out with the strides of its way in."""
    from dvgwm.runtime.backends.torch import engine as module

    copied = []

    def watched(tensor, stride):
        made = _laid(tensor, stride)
        copied.append(made is not tensor and made.data_ptr() != tensor.data_ptr() and tensor.dim() == 5)
        return made

    stage = bundle.manifest.stage("decode")
    backend = open_backend(None)
    first, following = (
        backend.load(bundle.path / stage.engines[name].file, stage.engines[name])
        for name in ("decode_first", "decode_next")
    )
    shape = next(spec.shape for spec in first.spec.inputs if spec.name == "latents")
    outputs = dict(first.run({"latents": torch.randn(shape)}))
    monkeypatch.setattr(module, "_laid", watched)
    for _ in range(2):
        carried = {
            following.spec.carry[name]: tensor for name, tensor in outputs.items() if name in following.spec.carry
        }
        copied.clear()
        outputs = dict(following.run({"latents": torch.randn(1, 2, *shape[2:]), **carried}))
        assert not any(copied)


def test_an_episode_on_the_command_line(bundle, tmp_path):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    command = [sys.executable, "-c", "from dvgwm.runtime.cli import main; main()"]
    command += ["--robot", "galaxea_a1", "--bundle", str(bundle.path)]
    command += ["--execute", "4", "--max-actions", "4", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["backend"] == "torch"
    # What noise asks for the gate may stop; what was seen until then is shown all the same.
    assert done.returncode == (0 if facts["stopped"] is None else 42), done.stderr
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("precision", [pytest.param("bfloat16", marks=pytest.mark.longest), "fp8_8bit"])
def test_lower_precision_passes_its_own_gate(tmp_path, precision):
    """The preview alone: every precision is compiled the same way."""
    from dvgwm.export.graphs import graphs
    from dvgwm.export.parity import ParityError, gate_of
    from dvgwm.export.verify import engine_parity, seeded_pair
    from dvgwm.models.networks import build
    from dvgwm.models.precision import precision as precision_of
    from dvgwm.models.presets import preset

    size = preset("a1_tiny")
    networks = build(size, 0)
    made = {graph.name: graph for graph in graphs(size, networks, modulated=True)}
    plain, shown = made["preview"], seeded_pair(made["preview"], made["modulate_preview"])
    graph = next(graph for graph in graphs(size, networks, precision_of(precision)) if graph.name == "preview")
    program = traced(graph.module, graph.inputs, graph.dynamic, torch.device("cpu"))
    export_package(program, tmp_path / graph.file)
    write_weights(program, graph.inputs, tmp_path / graph.weights)
    backend, spec = TorchBackend(torch.device("cpu")), engine_spec(graph)
    made = engine_parity(plain, backend, tmp_path / graph.file, spec, gate_of(precision), shown)["preview"]
    assert made.cosine > 0.999
    with pytest.raises(ParityError):  # it is no float32
        engine_parity(plain, backend, tmp_path / graph.file, spec, gate_of("float32"), shown)


@pytest.mark.parametrize(("precision", "told"), [("fp8_kernel", "--backend torch"), ("bfloat16", "--steps build")])
def test_a_precision_that_onnx_lacks_is_refused(tmp_path, precision, told):
    with pytest.raises(ConfigError, match=told):
        build_bundle(Order("test_tiny", "onnx", tmp_path / "b", 0, precision=precision), silent)
