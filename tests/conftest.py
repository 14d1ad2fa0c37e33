"""Bundles for the fake backend, in the shapes of both systems; without a GPU, its tests are skipped."""

import fcntl
import gc
import importlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.bundle.disk import Bundle, write_bundle
from dvgwm.runtime.bundle.manifest import (
    SCHEMA,
    ActionContract,
    InputContract,
    Manifest,
    ModelCard,
    Rates,
    StageSpec,
    TextContract,
)
from dvgwm.runtime.samplers.spec import SamplerSpec
from dvgwm.runtime.types import Observation, TensorSpec

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # every core has a worker
# What calls the compiled kernels of a package: two seconds less for each, and the kernels' own arithmetic is the same.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")

try:
    import torch

    GPU = torch.cuda.is_available()
except ImportError:
    GPU = False
if not GPU:
    # Before anything imports Triton: its kernels then run in the interpreter, on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")

SCHEDULING = os.sched_getscheduler(0), os.sched_getparam(0)
HELD = pytest.StashKey[int]()
"""The descriptor by which this worker holds the tests' lock."""
ZERO = "0" * 64
TOKENS = 64


def engine(
    file: str, inputs: Mapping[str, tuple], outputs: Mapping[str, tuple], carry: Mapping[str, str] | None = None
):
    specs = [
        tuple(TensorSpec(name, shape, dtype) for name, (dtype, *shape_) in side.items() for shape in [tuple(shape_)])
        for side in (inputs, outputs)
    ]
    return EngineSpec(file, specs[0], specs[1], carry or {}, 1000.0)


def stage(kind: str, name: str, output: str, **parts) -> StageSpec:
    return StageSpec(
        kind=kind,
        name=name,
        output=output,
        engines=parts.get("engines", {}),
        inputs=parts.get("inputs", {}),
        unconditional=parts.get("unconditional", {}),
        sampler=parts.get("sampler"),
        constants=parts.get("constants", {}),
    )


TEXT = engine("text.onnx", {"tokens": ("int64", 1, TOKENS)}, {"text": ("float32", 1, TOKENS, 8)})
PREVIEW = engine(
    "preview.onnx",
    {
        "state": ("float32", 1, 3, 4, 2, 3),
        "time": ("float32", 1),
        "text": ("float32", "branches", TOKENS, 8),
        "image": ("float32", 1, 1, 4, 2, 3),
    },
    {"velocity": ("float32", "branches", 3, 4, 2, 3)},
)
MODULATE = engine("modulate.onnx", {"time": ("float32", 1)}, {"modulation": ("float32", 1, 6)})
REFINE = engine(
    "refine.onnx",
    {
        "state": ("float32", 1, 3, 4, 4, 6),
        "time": ("float32", 1),
        "text": ("float32", "branches", TOKENS, 8),
        "image": ("float32", 1, 1, 4, 4, 6),
    },
    {"velocity": ("float32", "branches", 3, 4, 4, 6)},
)
ENCODE_LR = engine("encode_lr.onnx", {"image": ("uint8", 1, 16, 24, 3)}, {"latents": ("float32", 1, 1, 4, 2, 3)})
ENCODE_HR = engine("encode_hr.onnx", {"image": ("uint8", 1, 32, 48, 3)}, {"latents": ("float32", 1, 1, 4, 4, 6)})
FIRST = engine(
    "decode_first.onnx",
    {"latents": ("float32", 1, 1, 4, 4, 6)},
    {"frames": ("uint8", 1, 1, 32, 48, 3), "cache_out": ("float32", 2)},
)
NEXT = engine(
    "decode_next.onnx",
    {"latents": ("float32", 1, 2, 4, 4, 6), "cache": ("float32", 2)},
    {"frames": ("uint8", 1, 8, 32, 48, 3), "cache_out": ("float32", 2)},
    {"cache_out": "cache"},
)
FRAMES = engine("frames.onnx", {"frames": ("uint8", "frames", 32, 48, 3)}, {"features": ("float32", "frames", 5)})
POLICY = engine(
    "policy.onnx",
    {"state": ("float32", "chunks", 4, 7), "time": ("float32", 1), "features": ("float32", "chunks", 10)},
    {"velocity": ("float32", "chunks", 4, 7)},
)
ACT = engine(
    "act.onnx",
    {"plan": ("uint8", 1, 9, 32, 48, 3), "observations": ("uint8", 1, 8, 32, 48, 3), "text": ("float32", 1, TOKENS, 8)},
    {"actions": ("float32", 1, 8, 7)},
)
SPACE = {"mean": (0.0,), "std": (2.0,)}


def imagining() -> tuple[StageSpec, ...]:
    return (
        stage("encode_text", "encode_text", "text", engines={"encode": TEXT}, inputs={"instruction": "instruction"}),
        stage(
            "encode_image",
            "encode_lr",
            "lr_image",
            engines={"encode": ENCODE_LR},
            inputs={"image": "image"},
            constants=SPACE,
        ),
        stage(
            "encode_image",
            "encode_hr",
            "hr_image",
            engines={"encode": ENCODE_HR},
            inputs={"image": "image"},
            constants=SPACE,
        ),
        stage(
            "denoise",
            "preview",
            "lr_latents",
            engines={"denoise": PREVIEW},
            inputs={"text": "text", "image": "lr_image"},
            unconditional={"text": "text_empty"},
            sampler=SamplerSpec("ddim_v", 4, 6.0),
        ),
        stage(
            "bridge",
            "bridge",
            "hr_start",
            inputs={"latents": "lr_latents"},
            constants={
                "frames": 3.0,
                "height": 4.0,
                "width": 6.0,
                "scale": (1.5,),
                "shift": (0.0,),
                "signal": 0.86,
                "strength": 0.51,
            },
        ),
        stage(
            "denoise",
            "refine",
            "hr_latents",
            engines={"denoise": REFINE},
            inputs={"state": "hr_start", "text": "text", "image": "hr_image"},
            sampler=SamplerSpec("euler_flow", 4),
        ),
        stage(
            "decode",
            "decode",
            "frames",
            engines={"decode_first": FIRST, "decode_next": NEXT},
            inputs={"latents": "hr_latents"},
        ),
    )


def modulated(spec: StageSpec) -> StageSpec:
    denoiser = spec.engines["denoise"]
    wants = replace(denoiser, inputs=(*denoiser.inputs, TensorSpec("modulation", (1, 6), "float32")))
    return replace(spec, engines={"denoise": wants, "modulate": MODULATE})


def dvgwm_stages() -> tuple[StageSpec, ...]:
    act = stage(
        "act",
        "act",
        "actions",
        engines={"encode": FRAMES, "denoise": POLICY},
        inputs={"plan": "plan"},
        sampler=SamplerSpec("ddim_epsilon", 4),
        constants={
            "frames": 9.0,
            "stride": 2.0,
            "offsets": (0.0, 2.0),
            "samples": 3.0,
            "medoid_above": 10.0,
            "blend": (1.0, 1.0, 0.5, 0.5),
        },
    )
    return (*imagining(), act)


def dream_stages() -> tuple[StageSpec, ...]:
    act = stage(
        "act",
        "act",
        "actions",
        engines={"act": ACT},
        inputs={"plan": "plan", "observations": "observations", "text": "text"},
    )
    return (*imagining(), act)


def manifest(stages: tuple[StageSpec, ...], rates: Rates) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name="fake",
        builder="tests",
        backend="fake",
        precision="float32",
        model=ModelCard("fake", "dvgwm", "none: fake engines", False, {}),
        input=InputContract("scene", 32, 48, 10.0),
        # Around where the simulated Galaxea A1 stands at first: whatever the fake engines give is near enough to be begun.
        action=ActionContract(
            "joint",
            tuple("abcdefg"),
            ("rad",) * 7,
            (-0.2, 1.38, -1.34, 1.37, -1.33, -0.2, 0.3),
            (0.2, 1.78, -0.94, 1.77, -0.93, 0.2, 0.7),
            0.1,
        ),
        rates=rates,
        text=TextContract("bytes", TOKENS, ZERO, ZERO),
        pipeline=stages,
        fingerprint={},
        parity={},
        files={},
    )


@pytest.fixture(scope="session")
def rtx_compiler():
    """TensorRT for RTX's real builder, without a GPU; `trt` is its module."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="the extra tensorrt-rtx is not installed")
    from dvgwm.runtime.backends.tensorrt_rtx import open_compiler

    compiler = open_compiler()
    compiler.trt = compiler._trt
    return compiler


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Write a fake bundle: "dvgwm", "dream4manip", or "modulated", DVG-WM with an engine for the preview's modulations."""
    return bundles_in(tmp_path)


@pytest.fixture(scope="module")
def module_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A fake bundle, shared by a module's tests and never changed."""
    return bundles_in(tmp_path_factory.mktemp("module"))()


def bundles_in(tmp_path: Path) -> Callable[..., Bundle]:
    """Return a writer of fake bundles into a folder."""

    def make(system: str = "dvgwm", name: str = "bundle") -> Bundle:
        stages, rates = (
            (dream_stages(), Rates(0, 1, 8)) if system == "dream4manip" else (dvgwm_stages(), Rates(8, 8, 1))
        )
        if system == "modulated":
            stages = tuple(modulated(spec) if spec.name == "preview" else spec for spec in stages)
        sources = {}
        for spec in stages:
            for part in spec.engines.values():
                source = tmp_path / "sources" / part.file
                source.parent.mkdir(exist_ok=True)
                source.write_bytes(b"\x08\x0a" + part.file.encode())
                sources[part.file] = source
        return write_bundle(tmp_path / name, manifest(stages, rates), sources)

    return make


@pytest.fixture
def watch() -> Callable[[object, float], None]:
    """Look at a camera for so long (seconds)."""

    def look(camera, most_s: float) -> None:
        end_s = time.monotonic() + most_s
        while time.monotonic() < end_s:
            camera.latest()
            time.sleep(0.01)

    return look


@pytest.fixture
def observation() -> Observation:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    return Observation({"scene": image}, np.zeros(7), 0.0)


def pytest_sessionstart() -> None:
    # Graphs of torch are millions of objects, looked through again and again; little of them is garbage.
    gc.set_threshold(100_000, 20, 100)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-pages", action="store_true", help="write docs/faults.md and docs/codes.md anew")
    parser.addoption("--soak", type=int, metavar="SEED", help="draw all of tests/soak, from this seed")


@pytest.fixture(scope="session")
def hold_section(request: pytest.FixtureRequest) -> Callable[[str, str, str], None]:
    """Hold a section of a page in docs/, by its heading, against a test's own; write it with ``--write-pages``."""

    def hold(name: str, heading: str, made: str) -> None:
        page = Path(__file__).parents[1] / "docs" / name
        before, found, rest = page.read_text("utf-8").partition(f"\n## {heading}\n")
        assert found, f"{page} has no section {heading!r}"
        said, mark, after = rest.partition("\n## ")
        # A paragraph before the table is written by hand.
        words, table, _ = said.partition("\n|")
        if request.config.getoption("--write-pages"):
            page.write_text(f"{before}{found}{words}\n{made}\n{mark}{after}", "utf-8")
            return
        assert (table + said.partition("\n|")[2]).strip("\n") == made, "--write-pages writes it anew"

    return hold


@dataclass(frozen=True)
class Soak:
    """The source of the fuzzes of tests/soak: a seed, and whether all of it is drawn."""

    seed: int
    all: bool


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> Soak:
    seed = request.config.getoption("--soak")
    return Soak(20261126, False) if seed is None else Soak(seed, True)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Give every core a worker for whole files, if folders are tested and pytest-xdist is installed.

    ``-n 0`` keeps all in this process, as does a GPU: it has room for one. Thorough tests are left out if nothing was asked
    for: no file or folder, no marker, no name; so are downloads of another Triton.
    """
    folders = any(Path(argument).is_dir() for argument in config.args)
    if folders and not GPU and not WORKER and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses, config.option.dist = "logical", "loadfile"
        config.option.loadscopereorder = False
    named = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.markexpr or config.option.keyword
    if not named and config.option.soak is None:
        config.option.markexpr = "not thorough and not triton36"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    cases = Counter()
    for item in items:
        cases[item.path, item.originalname] += 1
        few = item.get_closest_marker("few")
        if few is not None and cases[item.path, item.originalname] > few.args[0]:
            item.add_marker(pytest.mark.thorough)
    # Files with slow tests first: one that is begun last keeps a core waiting.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if item.get_closest_marker("longest") and config.args_source is not pytest.Config.ArgsSource.ARGS:
            item.add_marker(pytest.mark.skip(reason="takes minutes: runs where its file or folder is named"))
        if item.get_closest_marker("gpu") and not GPU:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Keep the other workers' tests and an ``alone`` one from running at the same time."""
    if not WORKER:
        return (yield)
    alone = item.get_closest_marker("alone")
    tests = item.config.stash.get(HELD, None)
    if tests is None:
        item.config.stash[HELD] = tests = os.open(Path(__file__).parent, os.O_RDONLY)
        # Whoever waits for the tests' lock has that of this file, so nobody overtakes.
        with open(__file__) as queue:
            fcntl.flock(queue, fcntl.LOCK_EX)
            fcntl.flock(tests, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        return (yield)
    finally:
        if not (alone and nextitem and nextitem.get_closest_marker("alone")):
            fcntl.flock(tests, fcntl.LOCK_UN)  # closing does not let go of it where a test forked
            os.close(tests)
            del item.config.stash[HELD]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    """Fail if a file's tests leave this process with another priority: its children have it too, beside real-time tests."""
    done = yield
    if nextitem is None or nextitem.path != item.path:
        left = os.sched_getscheduler(0)
        os.sched_setscheduler(0, *SCHEDULING)
        assert left == SCHEDULING[0], f"{item.path.name} left the scheduling policy {left}, not {SCHEDULING[0]}"
    return done


@pytest.fixture
def install(tmp_path, monkeypatch):
    """An installer of somebody else's package, by its name, text and entry points, for processes started here too."""

    def add(name, text, entry_points, folder=None):
        folder = folder or tmp_path / "site"
        facts = folder / f"{name}-1.0.dist-info"
        facts.mkdir(parents=True)
        (folder / f"{name}.py").write_text(text)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        groups = "".join(f"[dvgwm.{group}]\n{line}\n" for group, line in entry_points.items())
        (facts / "entry_points.txt").write_text(groups)
        if str(folder) not in sys.path:
            monkeypatch.syspath_prepend(str(folder))
            path = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
        importlib.invalidate_caches()
        return folder

    yield add
    for module in [
        name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))
    ]:
        del sys.modules[module]
