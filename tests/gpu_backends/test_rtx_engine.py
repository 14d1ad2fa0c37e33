"""Engines of TensorRT for RTX as they are run: the bundle's own, captured if they can be, the code of a first run kept on disk.

The bindings are real; ONNX Runtime stands in for the engines, on the host's memory, as an engine runs on an RTX card only.
"""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from gpu_doubles import HostDevice
from onnx import TensorProto, helper
from PIL import Image

from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.backends.compiling import CachingBackend, CompilingBackend
from dvgwm.runtime.backends.tensorrt_rtx import code
from dvgwm.runtime.backends.tensorrt_rtx.build import USUAL
from dvgwm.runtime.backends.tensorrt_rtx.code import CodeStore
from dvgwm.runtime.backends.tensorrt_rtx.engine import RtxBackend
from dvgwm.runtime.bundle.disk import read_bundle, write_bundle
from dvgwm.runtime.bundle.manifest import CompiledEngine
from dvgwm.runtime.cache import Cache
from dvgwm.runtime.commands.line import cli
from dvgwm.runtime.compiled import sources
from dvgwm.runtime.config import plugins
from dvgwm.runtime.errors import BundleCorruptError, BundleIncompatibleError, ConfigError
from dvgwm.runtime.types import TensorSpec

pytestmark = pytest.mark.ort
SPEC = EngineSpec("add.onnx", (TensorSpec("x", (3, 2), "float32"),), (TensorSpec("y", (3, 2), "float32"),), {}, 1.0)
VERSION_OF_BEFORE = "1.6.1.12"


@pytest.fixture
def plan(tmp_path):
    """An engine to double its input."""
    value = helper.make_tensor_value_info
    sides = [[value(name, TensorProto.FLOAT, (3, 2))] for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "add", *sides)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "add.onnx"
    )
    path = tmp_path / "add.plan"
    path.write_text(json.dumps({"graph": str(tmp_path / "add.onnx"), "profile": {}}))
    return path


@pytest.fixture
def backend(rtx_world):
    return RtxBackend(rtx_world.module(), rtx_world.device)


def doubled(backend, engine):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    got = backend.download(engine.run({"x": backend.upload(x)})["y"])
    np.testing.assert_array_equal(got, 2 * x)


def test_it_is_a_backend_that_compiles_and_keeps_code(backend):
    assert isinstance(backend, CompilingBackend)
    assert isinstance(backend, CachingBackend)
    assert backend.compiler.usual("float16").capabilities == ("8.9",)


def test_memory_is_ours_and_sizes_are_known_before_the_first_run(rtx_world, backend, plan):
    engine = backend.load(plan, SPEC)
    trt = rtx_world.trt
    assert (
        "IRuntimeConfig",
        "dynamic_shapes_kernel_specialization_strategy",
        (trt.DynamicShapesKernelSpecializationStrategy.EAGER,),
    ) in rtx_world.calls
    doubled(backend, engine)
    names = rtx_world.names()
    order = [
        names.index(f"{name}") for name in ("IRuntimeConfig.set_runtime_cache", "ICudaEngine.create_execution_context")
    ]
    assert order == sorted(order)
    assert "IExecutionContext.set_device_memory" in names


def test_a_run_is_captured_only_if_the_context_says_that_it_can_be(rtx_world, backend, plan):
    engine = backend.load(plan, SPEC)
    rtx_world.capturable = False
    for _ in range(3):
        doubled(backend, engine)
    assert rtx_world.device.replays == 0
    rtx_world.capturable = True
    for _ in range(3):
        doubled(backend, engine)
    assert rtx_world.device.replays == 2


@pytest.fixture
def store(tmp_path):
    return Cache.at(tmp_path / "cache")


def files_of(store):
    return sorted(store.folder.rglob("*.code"))


def test_the_code_of_a_first_run_is_kept_for_the_next_process(rtx_world, backend, plan, store):
    backend.keep_in(store)
    rtx_world.code = b"compiled for this card"
    engine = backend.load(plan, SPEC)
    assert files_of(store) == [], "before a run there is none"
    doubled(backend, engine)
    (file,) = files_of(store)
    written = file.stat().st_mtime_ns
    doubled(backend, engine)
    rtx_world.loaded = None
    again = RtxBackend(rtx_world.module(), rtx_world.device)
    again.keep_in(store)
    doubled(again, again.load(plan, SPEC))
    assert rtx_world.loaded == b"compiled for this card"
    assert file.stat().st_mtime_ns == written, "what is known is not written again"


def test_without_a_cache_nothing_is_kept(rtx_world, backend, plan, tmp_path):
    rtx_world.code = b"compiled for this card"
    doubled(backend, backend.load(plan, SPEC))
    assert not list(tmp_path.rglob("*.code"))


def spoil_byte(file):
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"0" * 64 + file.read_bytes()[64:]),
        spoil_byte,
        lambda file: file.write_bytes(file.read_bytes()[:70]),
        lambda file: os.chmod(file, 0o666),
    ],
)
def test_code_that_is_not_this_users_is_not_loaded(rtx_world, backend, plan, store, spoil):
    backend.keep_in(store)
    rtx_world.code = b"compiled for this card"
    doubled(backend, backend.load(plan, SPEC))
    spoil(files_of(store)[0])
    rtx_world.loaded = None
    doubled(backend, backend.load(plan, SPEC))
    assert rtx_world.loaded is None


def test_code_is_of_one_engine_one_gpu_one_driver_and_one_library(plan, store):
    facts = {"gpu": "a", "capability": "8.9", "driver": "1", "tensorrt_rtx": "1.7"}
    key = CodeStore(store, facts).key(plan)
    assert CodeStore(store, dict(facts)).key(plan) == key
    for fact in facts:
        assert CodeStore(store, facts | {fact: "other"}).key(plan) != key
    plan.write_bytes(plan.read_bytes() + b" ")
    assert CodeStore(store, facts).key(plan) != key


def test_code_of_a_size_is_capped_and_the_oldest_goes(plan, store, monkeypatch):
    kept = CodeStore(store, {"gpu": "a"})
    monkeypatch.setattr(code, "LARGEST_BYTES", 1000)
    monkeypatch.setattr(code, "ALL_BYTES", 2500)
    kept.saver("large", lambda: b"x" * 1001, b"")()
    assert files_of(store) == []
    for index in range(4):
        kept.saver(f"key{index}", lambda: b"x" * 1000, b"")()
        os.utime(store.folder / f"key{index}.code", ns=(index, index))
    assert [file.stem for file in files_of(store)] == ["key2", "key3"]


def test_a_cache_that_cannot_be_written_stops_no_plan(rtx_world, backend, plan, tmp_path):
    (tmp_path / "file").write_text("")
    backend.keep_in(Cache(tmp_path / "file" / "cache", tmp_path / "cache.key"))
    rtx_world.code = b"compiled for this card"
    doubled(backend, backend.load(plan, SPEC))


def test_a_gpu_that_it_does_not_run_on_is_refused(rtx_world):
    for capability, said in (("9.0", "Hopper"), ("13.0", "it knows 8.0")):
        with pytest.raises(ConfigError, match=f"capability {capability}: {said}") as caught:
            RtxBackend(rtx_world.module(), HostDevice("NVIDIA H200", capability))
        assert caught.value.log_code == "RTX_GPU"


@pytest.fixture
def bundled(rtx_world, tmp_path):
    """Return a copy of the shipped bundle with engines inside, as the command builds it."""

    def made(version=rtx_world.trt.__version__, capabilities=USUAL):
        shipped = read_bundle(plugins.shipped("a1_tiny"))
        building = replace(
            RtxBackend(rtx_world.module(), rtx_world.device).compiler.usual(""), capabilities=capabilities
        )
        files, engines = {name: shipped.path / name for name in shipped.manifest.files}, []
        for source in sources(shipped, shipped.manifest.pipeline):
            name = source.spec.file.replace(".onnx", ".plan")
            profile = {
                item.name: source.shapes[item.name]
                for item in source.spec.inputs
                if any(isinstance(size, str) for size in item.shape)
            }
            files[name] = tmp_path / name
            files[name].write_text(json.dumps({"graph": str(source.path), "profile": profile}))
            facts = {"tensorrt_rtx": version}
            engines.append(CompiledEngine("tensorrt_rtx", source.spec.file, name, source.shapes, facts, building))
        return write_bundle(tmp_path / "bundle", replace(shipped.manifest, compiled=tuple(engines)), files)

    return made


@pytest.fixture
def dvgwm(rtx_world, tmp_path, monkeypatch, capsys):
    """Run a command line on the double of a machine with an RTX card, and return the JSON of its last line."""
    opened = plugins.open_backend
    backend = RtxBackend(rtx_world.module(), rtx_world.device)
    monkeypatch.setattr(
        plugins, "open_backend", lambda name, threads: backend if name == "tensorrt_rtx" else opened(name, threads)
    )
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 64), (90, 120, 150)).save(tmp_path / "scene.png")

    def run(*arguments):
        cli.main([*map(str, arguments), "--cache-dir", str(tmp_path / "cache")], standalone_mode=False)
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


SENTENCE = ("--instruction", "put the banana into the bowl")
PLAN = ("--plan-only", "--camera", "scene.png", *SENTENCE, "--backend", "tensorrt_rtx", "--bundle", "bundle")


@pytest.mark.slow
def test_a_bundle_brings_its_engines(rtx_world, bundled, dvgwm, tmp_path):
    """Nothing is compiled on the robot PC, and the plan is the graphs' own, bit for bit."""
    bundled()
    rtx_world.code = b"compiled for this card"
    result = dvgwm(*PLAN, "--out", "run")
    assert result["backend"] == "tensorrt_rtx"
    assert "Builder.__init__" not in rtx_world.names()
    assert len(files_of(Cache.at(tmp_path / "cache"))) == 9
    assert rtx_world.device.replays > 0
    plain = [*PLAN[:-4], "--bundle", "bundle"]
    assert dvgwm(*plain, "--out", "plain")["backend"] == "onnx"
    assert (tmp_path / "run" / "actions.csv").read_text() == (tmp_path / "plain" / "actions.csv").read_text()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"version": VERSION_OF_BEFORE}, f"tensorrt_rtx {VERSION_OF_BEFORE}"),
        ({"capabilities": ("8.6", "12.0")}, r"compute capability 8\.6, 12\.0 \(here 8\.9\)"),
    ],
)
def test_engines_that_do_not_run_here_say_why_and_what_makes_new_ones(bundled, dvgwm, made, said):
    bundled(**made)
    with pytest.raises(BundleIncompatibleError, match=said) as caught:
        dvgwm(*PLAN, "--out", "none")
    assert caught.value.log_code == "ENGINE_UNBUILT"
    assert "`dvgwm-runtime compile --bundle bundle --backend tensorrt_rtx`" in str(caught.value)


def test_a_bundle_says_which_gpus_its_engines_are_for(bundled, capsys):
    cli.main(["inspect", str(bundled().path)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert json.loads(shown.splitlines()[-1])["capabilities"] == sorted(USUAL)
    assert "GeForce RTX 40" in shown


def test_another_size_than_the_engines_is_lacking(bundled, dvgwm):
    bundled()
    with pytest.raises(BundleIncompatibleError, match=r"preview\.onnx was never compiled for tensorrt_rtx"):
        dvgwm(*PLAN, "--guidance", 6.0, "--out", "none")


@pytest.mark.parametrize(
    ("changed", "log_code"),
    [
        ({"file": "preview.onnx"}, "STAGE_FILE"),
        ({"file": "absent.plan"}, "STAGE_FILE"),
        ({"graph": "absent.onnx"}, "ENGINE_SHAPE"),
        ({"shapes": {"state": (1,)}}, "ENGINE_SHAPE"),
        ({"library": ""}, "MANIFEST_NAME"),
    ],
)
def test_a_manifest_that_states_impossible_engines_is_refused(bundled, tmp_path, changed, log_code):
    bundled()
    place = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(place.read_text())
    manifest["compiled"][3].update(changed)
    place.write_text(json.dumps(manifest))
    with pytest.raises(BundleCorruptError) as caught:
        read_bundle(tmp_path / "bundle")
    assert caught.value.log_code == log_code
