"""The whole cascade on engines compiled here: found, made, refused, rebuilt; the numbers are ONNX Runtime's."""

import json
import os
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from gpu_doubles import HostDevice

from dvgwm.runtime.backends.compiling import Building
from dvgwm.runtime.backends.tensorrt.engine import TensorrtBackend
from dvgwm.runtime.bundle.disk import Bundle, read_bundle
from dvgwm.runtime.bundle.manifest import FileRecord
from dvgwm.runtime.compiled import compiled_engines, sources
from dvgwm.runtime.config.plugins import open_backend, shipped
from dvgwm.runtime.engine_store import Rebuild, record_of
from dvgwm.runtime.errors import BundleIncompatibleError, RecordingError
from dvgwm.runtime.pipeline import Overrides, Pipeline
from dvgwm.runtime.profiler import Profiler
from dvgwm.runtime.types import Observation

pytestmark = pytest.mark.ort
MAKE = Rebuild(asked=True)
SENTENCE = "put the banana into the bowl"


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(shipped("a1_tiny"))


@pytest.fixture
def backend(world):
    return TensorrtBackend(world.module(), world.device)


@pytest.fixture
def watched():
    """A display of progress, and its calls."""

    @contextmanager
    def watch(room):
        watch.opened += 1
        yield lambda *told: watch.told.append(told)

    watch.opened, watch.told = 0, []
    return watch


@pytest.fixture
def engines(bundle, backend, tmp_path, watched):
    """Return the engines as they are asked for."""

    def get(rebuild=MAKE, bundle=bundle, compiler=backend.compiler, overrides=None):
        stages = [(overrides or Overrides()).applied(stage) for stage in bundle.manifest.pipeline]
        return compiled_engines(bundle, stages, compiler, tmp_path / "engines", watched, rebuild)

    return get


def builds(world):
    return world.names().count("Builder.build_serialized_network")


def on_other(backend, **facts):
    """Return the compiler of another machine."""
    other = type(backend.compiler)(backend.compiler._trt, {})
    other.facts = backend.compiler.facts | facts
    return other


def with_weights(bundle, changed=r"preview"):
    """Return the bundle of another LoRA: the same graphs, other weights in one of its files."""
    name = next(name for name in bundle.weights_of("preview.onnx") if changed in name)
    files = dict(bundle.manifest.files) | {name: FileRecord(bundle.manifest.files[name].size, "f" * 64)}
    return Bundle(bundle.path, replace(bundle.manifest, files=files))


@pytest.mark.slow
def test_a_plan_of_compiled_engines_is_that_of_the_graphs(world, bundle, backend, engines):
    """Buffers, captures, scratch memory, carried caches and the steps between engines: every bit through the whole cascade."""
    rng = np.random.default_rng(3)
    contract = bundle.manifest.input
    seen = [
        Observation(
            {contract.camera: rng.integers(0, 256, (contract.height_px, contract.width_px, 3), np.uint8)},
            np.zeros(7),
            0.0,
        )
    ]
    plans = []
    for opened, compiled in ((open_backend("onnx", None), None), (backend, engines())):
        with Pipeline(bundle, opened, compiled=compiled) as pipeline:
            pipeline.warmup()
            for seed in (1, 2):
                plan = pipeline.imagine(seen, SENTENCE, seed, Profiler())
                plans.append((plan, pipeline.act(plan, seen, SENTENCE)))
    for (plan, chunk), (other, actions) in zip(plans[:2], plans[2:], strict=True):
        np.testing.assert_array_equal(plan.frames, other.frames)
        np.testing.assert_array_equal(chunk.actions, actions.actions)
        for name, latents in plan.latents.items():
            np.testing.assert_array_equal(latents, other.latents[name])
    assert (plans[0][0].frames != plans[1][0].frames).any(), "another seed is another plan"
    steps = sum(len(stage.sampler.steps) for stage in pipeline.stages if stage.sampler)
    assert world.device.steps == 2 * steps
    assert world.device.replays > 2 * steps


def test_what_is_there_is_kept(world, engines, watched):
    made = engines()
    assert builds(world) == len(made) == len({path.name for path in made.values()})
    assert watched.opened == 1
    assert {told[0] for told in watched.told} == set(made)
    assert {told[4:] for told in watched.told} == {(index, len(made)) for index in range(len(made))}
    assert engines(Rebuild()) == made
    assert (builds(world), watched.opened) == (len(made), 1)


def test_nothing_is_compiled_unasked(engines, bundle):
    with pytest.raises(
        BundleIncompatibleError, match=r"was never compiled for tensorrt, and \d+ more are lacking"
    ) as caught:
        engines(Rebuild())
    assert caught.value.log_code == "ENGINE_UNBUILT"
    assert f"`dvgwm-runtime compile --bundle {bundle.path}`" in str(caught.value)
    assert "--rebuild" in str(caught.value)


def test_a_build_that_is_stopped_goes_on_where_it_was(world, engines, backend, monkeypatch):
    compile_one = backend.compiler.compile

    def stopped(source, *rest):
        if builds(world) == 3:
            raise KeyboardInterrupt
        return compile_one(source, *rest)

    monkeypatch.setattr(backend.compiler, "compile", stopped)
    with pytest.raises(KeyboardInterrupt):
        engines()
    monkeypatch.undo()
    made = engines()
    assert builds(world) == len(made)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"driver": "590.10"}, "was compiled for driver 580.95 (here 590.10)"),
        ({"tensorrt": "12.0"}, "was compiled for tensorrt 11.4.0.106 (here 12.0)"),
        (
            {"gpu": "NVIDIA Orin", "capability": "8.7"},
            "was compiled for gpu none (here NVIDIA Orin), capability 9.0 (here 8.7)",
        ),
    ],
)
def test_another_machine_says_what_differs_and_rebuilds(world, engines, backend, facts, said):
    first = engines()
    other = on_other(backend, **facts)
    with pytest.raises(BundleIncompatibleError) as caught:
        engines(Rebuild(), compiler=other)
    assert said in str(caught.value)
    again = engines(compiler=other)
    assert builds(world) == 2 * len(first)
    assert all(record_of(path).facts == other.facts for path in again.values())
    left = [path.exists() for path in first.values()]
    assert not any(left) if "gpu" not in facts else all(left), "engines of this GPU that no longer run make room"


@pytest.mark.parametrize(
    ("runs_on", "facts", "runs"),
    [
        ("here", {"gpu": "NVIDIA H200"}, False),
        ("capability", {"gpu": "NVIDIA H200"}, True),
        ("capability", {"gpu": "NVIDIA B200", "capability": "10.0"}, False),
        ("ampere", {"gpu": "NVIDIA B200", "capability": "10.0"}, True),
        ("ampere", {"gpu": "NVIDIA T4", "capability": "7.5"}, False),
        ("ampere", {"gpu": "NVIDIA B200", "capability": "10.0", "driver": "590.10"}, False),
    ],
)
def test_engines_run_on_the_gpus_that_they_were_compiled_for(engines, backend, runs_on, facts, runs):
    made = engines(Rebuild(asked=True, building=Building(runs_on=runs_on)))
    other = on_other(backend, **facts)
    if runs:
        assert engines(Rebuild(), compiler=other) == made
    else:
        with pytest.raises(BundleIncompatibleError):
            engines(Rebuild(), compiler=other)


def test_another_lora_is_put_into_the_engine(world, engines, bundle):
    first = engines()
    other = with_weights(bundle)
    with pytest.raises(BundleIncompatibleError, match=r"preview\.onnx was compiled for other weights; compile"):
        engines(Rebuild(), bundle=other)
    before = builds(world)
    again = engines(bundle=other)
    assert builds(world) == before, "nothing was compiled"
    changed = {name for name in first if first[name] != again[name]}
    assert changed == {name for name in first if "preview" in str(bundle.weights_of(name))}
    assert all(record_of(again[name]).refitted for name in changed)
    assert engines(Rebuild()) == first, "the first LoRA's are still there"


def test_an_engine_that_takes_no_other_weights_is_compiled(world, engines, bundle):
    engines()
    world.refitted = False
    before = builds(world)
    assert not record_of(engines(bundle=with_weights(bundle))["preview.onnx"]).refitted
    assert builds(world) > before
    world.refitted = True
    before = builds(world)
    fixed = Rebuild(asked=True, building=Building(refit=False), exactly=True)
    engines(fixed)
    engines(fixed, bundle=with_weights(bundle))
    assert not any("refit" in name.lower() and "set_flag" not in name for name in world.names()[-40:])
    assert builds(world) > before


def test_other_steps_need_no_other_engines_and_other_branches_do(engines, bundle):
    made = engines()
    assert engines(Rebuild(), overrides=Overrides(preview_steps=3, refine_steps=2)) == made
    source = next(s for s in sources(bundle, bundle.manifest.pipeline) if s.spec.file == "preview.onnx")
    guided = Overrides(guidance=1.0 if source.shapes["text"][0] == 2 else 6.0)
    with pytest.raises(BundleIncompatibleError, match=r"preview\.onnx was never compiled"):
        engines(Rebuild(), overrides=guided)
    assert engines(overrides=guided).keys() == made.keys()
    assert engines(Rebuild()) == made, "both are kept"


def test_another_way_of_building_takes_the_place_of_the_last(world, engines):
    first = engines()
    assert engines(Rebuild(asked=True, building=Building(level=5))) == first, "a run takes what is there"
    again = engines(Rebuild(asked=True, building=Building(level=5), exactly=True))
    assert set(again.values()).isdisjoint(first.values())
    assert not any(path.exists() or path.with_suffix(".json").exists() for path in first.values())
    assert engines(Rebuild(asked=True, building=Building(level=5), exactly=True)) == again


def test_a_damaged_engine_is_none(world, engines):
    path = engines()["preview.onnx"]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BundleIncompatibleError, match=r"has an engine that is damaged, or not this user's; compile"):
        engines(Rebuild())
    assert engines()["preview.onnx"].read_bytes() != path.read_bytes() + b" "
    for damage in (b"", b"[]", b"{" * 5000, json.dumps({"library": "tensorrt"}).encode()):
        path.with_suffix(".json").write_bytes(damage)
        with pytest.raises(BundleIncompatibleError, match=r"preview\.onnx was never compiled"):
            engines(Rebuild())
        engines()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written_says_so(engines, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RecordingError, match="name another place with --cache-dir"):
        engines()


def test_a_cache_that_is_a_file_says_so(engines, tmp_path):
    (tmp_path / "engines").write_text("")
    with pytest.raises(RecordingError, match=r"cannot keep anything in .*; name another place with --cache-dir"):
        engines()


def test_the_host_device_forgets_nothing():
    """The negative control of the double: freed memory is not read."""
    device = HostDevice()
    block = device.allocate(8)
    address = block.address
    device.write(address, np.zeros(2, np.float32))
    del block
    with pytest.raises(AssertionError, match="memory that is not ours"):
        device.read(np.zeros(2, np.float32), address)
