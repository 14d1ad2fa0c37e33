"""Graphs in TensorRT for RTX's real parser and builder, on a CPU: all compile for three generations of GPUs.

No engine runs here, and no number of one is known. TensorRT's own builder shares the parse, the types, the profile, the split
of attention, the workspace, the progress and the words of a refusal.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")

from onnx import TensorProto, helper

from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.backends.compiling import Building, GraphSource
from dvgwm.runtime.backends.tensorrt import build
from dvgwm.runtime.backends.tensorrt_rtx import apart
from dvgwm.runtime.backends.tensorrt_rtx import build as rtx_build
from dvgwm.runtime.backends.tensorrt_rtx.build import GPUS, USUAL, RtxCompiler, capabilities_of
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.compiled import sources
from dvgwm.runtime.config.plugins import shipped
from dvgwm.runtime.errors import BundleIncompatibleError, ConfigError, RecordingError
from dvgwm.runtime.types import TensorSpec

F = TensorProto.FLOAT
USUALLY = Building(refit=False, capabilities=USUAL)


@pytest.fixture(scope="module")
def graphs():
    bundle = read_bundle(shipped("a1_tiny"))
    return {source.spec.file: source for source in sources(bundle, bundle.manifest.pipeline)}


@pytest.fixture
def compiled(rtx_compiler, tmp_path):
    """Return the engine of a source, made in this process."""

    def engine(source, building=USUALLY, report=lambda *_: None):
        with (tmp_path / "engine").open("w+b") as file:
            rtx_compiler.write(source, building, file.fileno(), report)
            file.seek(0)
            return file.read()

    return engine


def graph_of(folder, nodes, inputs, outputs, constants=()):
    """Return the source of a graph, its inputs of float32."""
    shown = [
        [helper.make_tensor_value_info(name, F, shape) for name, shape in side.items()] for side in (inputs, outputs)
    ]
    made = helper.make_graph(nodes, "g", *shown, list(constants))
    path = folder / "g.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), path)
    spec = EngineSpec("g.onnx", tuple(TensorSpec(*item, "float32") for item in inputs.items()), (), {}, 1.0)
    sizes = {name: tuple(2 if isinstance(size, str) else size for size in shape) for name, shape in inputs.items()}
    return GraphSource(path, spec, sizes, "g", "w")


@pytest.fixture
def product(tmp_path):
    """A graph of one product with an open size."""
    weights = helper.make_tensor("w", F, (64, 64), np.ones(64 * 64, np.float32))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return graph_of(tmp_path, [node], {"x": ("rows", 64)}, {"y": ("rows", 64)}, [weights])


def test_every_graph_that_ships_compiles_for_three_generations(compiled, graphs):
    assert len(graphs) == 9
    sizes = {file: len(compiled(source)) for file, source in graphs.items()}
    assert all(size > 100_000 for size in sizes.values()), sizes


def test_the_same_graph_gives_the_same_bytes_wherever_it_lies(rtx_compiler, graphs, tmp_path, monkeypatch):
    """Also a graph with several outputs, ordered by their addresses in the builder's memory."""
    far = tmp_path / "a folder with a much longer name than the first one has" / "b"
    shutil.copytree(graphs["decode_first.onnx"].path.parent, far)
    for file in ("decode_first.onnx", "policy.onnx"):
        first = rtx_compiler.compile(graphs[file], USUALLY, tmp_path / "timings", lambda *_: None)
        monkeypatch.setenv("SOME_USERS_OWN", "x" * 3000)
        other = rtx_compiler.compile(replace(graphs[file], path=far / file), USUALLY, far / "timings", lambda *_: None)
        assert first == other, file
        monkeypatch.undo()
    alone = rtx_compiler.compile(
        graphs["policy.onnx"], replace(USUALLY, capabilities=("8.9",)), tmp_path / "timings", lambda *_: None
    )
    assert alone != first, "the negative control: engines for other GPUs are other bytes"


def test_a_builder_that_dies_is_told(rtx_compiler, graphs, tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "MODULE", "dvgwm.runtime.backends.tensorrt_rtx.absent")
    with pytest.raises(
        BundleIncompatibleError, match=r"the builder of policy\.onnx ended with code 1: .*absent"
    ) as caught:
        rtx_compiler.compile(graphs["policy.onnx"], USUALLY, tmp_path / "timings", lambda *_: None)
    assert caught.value.log_code == "TENSORRT_DIED"


def test_errors_and_progress_come_from_the_builders_process(rtx_compiler, graphs, product, tmp_path):
    told = []
    rtx_compiler.compile(product, USUALLY, tmp_path / "timings", lambda *step: told.append(step))
    assert told[0] == ("Building engine", 0, told[0][2])
    small = replace(USUALLY, workspace_gb=1e-6)
    with pytest.raises(BundleIncompatibleError, match="within workspace limit") as caught:
        rtx_compiler.compile(graphs["policy.onnx"], small, tmp_path / "timings", lambda *_: None)
    assert caught.value.log_code == "TENSORRT_BUILD"
    assert not list(tmp_path.glob("*.plan"))


def test_attention_compiles_because_it_may_be_split(compiled, graphs, monkeypatch):
    """The negative control: as the parser leaves it, attention in float32 has no kernel."""
    monkeypatch.setattr(build, "_let_attention_be_split", lambda trt, network: None)
    with pytest.raises(BundleIncompatibleError, match="not supported by a dedicated kernel") as caught:
        compiled(graphs["refine.onnx"])
    assert caught.value.log_code == "TENSORRT_BUILD"
    assert "cannot compile refine.onnx: " in str(caught.value)


def test_an_operator_that_the_parser_refuses_is_told_by_its_node(compiled, tmp_path):
    source = graph_of(tmp_path, [helper.make_node("Frobnicate", ["x"], ["y"])], {"x": (2,)}, {"y": (2,)})
    with pytest.raises(
        BundleIncompatibleError, match=r"cannot read g\.onnx: node 0 \(Frobnicate\): .*Plugin not found"
    ) as caught:
        compiled(source)
    assert caught.value.log_code == "TENSORRT_PARSE"


def test_types_that_do_not_agree_are_refused(compiled, tmp_path):
    """Networks are strongly typed: nothing is cast unasked."""
    half = helper.make_tensor("h", TensorProto.FLOAT16, (2,), np.ones(2, np.float16))
    source = graph_of(tmp_path, [helper.make_node("Add", ["x", "h"], ["y"])], {"x": (2,)}, {"y": (2,)}, [half])
    with pytest.raises(
        BundleIncompatibleError, match=r"cannot read g\.onnx: node 0 \(Add\): .*must have same input types"
    ):
        compiled(source)


def test_too_small_a_workspace_is_refused(compiled, graphs):
    compiled(graphs["encode_low.onnx"], replace(USUALLY, workspace_gb=1.0))
    with pytest.raises(BundleIncompatibleError, match="within workspace limit"):
        compiled(graphs["policy.onnx"], replace(USUALLY, workspace_gb=1e-6))


def test_an_open_size_has_that_of_the_run(compiled, product):
    small, large = (compiled(replace(product, shapes={"x": (rows, 64)})) for rows in (2, 200))
    assert small != large


def test_float32_is_not_computed_in_tf32(compiled, product, rtx_compiler, monkeypatch):
    exact = compiled(product)
    config = type(rtx_compiler)._config

    def with_tf32(self, *arguments):
        made = config(self, *arguments)
        made.set_flag(self._trt.BuilderFlag.TF32)
        return made

    monkeypatch.setattr(RtxCompiler, "_config", with_tf32)
    assert compiled(product) != exact


def test_progress_is_that_of_the_outermost_phase(compiled, graphs):
    told = []
    compiled(graphs["encode_low.onnx"], report=lambda *step: told.append(step))
    phases = {phase for phase, *_ in told}
    assert len(phases) == 1
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[0][1] == 0
    assert told[-1][1] >= told[-1][2] - 1 > 0


def test_weights_may_stay_on_the_host(compiled, product):
    assert len(compiled(product, replace(USUALLY, streamed=True))) > 64 * 64 * 4


def test_a_disk_that_is_full_is_told(rtx_compiler, product):
    """The bindings swallow a writer's exception, and call the engine built."""
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(RecordingError, match="No space left on device"):
        rtx_compiler.write(product, USUALLY, full.fileno(), lambda *_: None)


@pytest.mark.parametrize(
    ("text", "given"),
    [("86,89,120", USUAL), ("12.0, 8.6", ("8.6", "12.0")), ("89,8.9", ("8.9",)), ("80,121", ("8.0", "12.1"))],
)
def test_gpus_are_named_with_or_without_a_point(text, given):
    assert capabilities_of(text) == given


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("90", "Hopper"),
        ("86,87", "Jetson Orin"),
        ("110", "Jetson Thor"),
        ("100", "data-centre Blackwell"),
        ("75", "Turing"),
        ("", "got ''"),
        ("86,", "got ''"),
        ("4090", "got '4090'"),
        ("sm_89", "got 'sm_89'"),
        ("8..9", "got '8..9'"),
    ],
)
def test_other_gpus_are_refused_with_the_reason(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        capabilities_of(text)
    assert caught.value.log_code == "COMPILE_FOR"


def test_every_gpu_is_one_that_the_library_knows_and_no_more(rtx_compiler):
    members = rtx_compiler.trt.ComputeCapability.__members__
    assert {f"SM{each.replace('.', '')}" for each in GPUS} | {"SM75", "CURRENT", "NONE"} == set(members)


@pytest.mark.parametrize(
    ("building", "precision", "said"),
    [
        (replace(USUALLY, refit=True), "float32", "another LoRA is another build"),
        (replace(USUALLY, runs_on="ampere"), "float32", "--runs-on is TensorRT's"),
        (replace(USUALLY, level=5), "float32", "--level is TensorRT's"),
        (USUALLY, "fp8", r"wanted --for 89 or above in fp8, got 8\.6"),
    ],
)
def test_an_option_that_it_has_not_is_refused_before_anything_is_compiled(rtx_compiler, building, precision, said):
    with pytest.raises(ConfigError, match=said):
        rtx_compiler.check((), building, precision)


def test_fp8_is_for_the_gpus_that_have_it(rtx_compiler):
    assert rtx_compiler.usual("fp8").capabilities == ("8.9", "12.0")
    assert rtx_compiler.usual("float16") == USUALLY
    rtx_compiler.check((), rtx_compiler.usual("fp8"), "fp8")


def test_room_is_told_beforehand_and_too_little_memory_refused(rtx_compiler, graphs, compiled, monkeypatch):
    told = rtx_compiler.check(tuple(graphs.values()), USUALLY, "float32")
    assert "8.6 (GeForce RTX 30" in told
    assert "12.0 (GeForce RTX 50" in told
    size = float(told.split("about ")[1].split(" GB")[0])
    assert 0.03 < size < 0.13, "the nine are 65 MB"
    monkeypatch.setattr(rtx_build, "available_memory_bytes", lambda: 0.5e9)
    with pytest.raises(ConfigError, match=r"wants about 0\.\d GB of memory .* 0\.5 GB are available") as caught:
        rtx_compiler.check(tuple(graphs.values()), USUALLY, "float32")
    assert caught.value.log_code == "COMPILE_MEMORY"


def test_engines_ahead_are_of_this_release_and_of_these_gpus(rtx_compiler):
    facts = rtx_compiler.facts
    assert facts == {"tensorrt_rtx": rtx_compiler.trt.__version__}
    assert rtx_compiler.lacks(facts, USUALLY) == ()
    assert rtx_compiler.lacks({"tensorrt_rtx": "1.6.1"}, USUALLY) == (
        f"tensorrt_rtx 1.6.1 (here {rtx_compiler.trt.__version__})",
    )
    card = RtxCompiler(rtx_compiler.trt, "8.9")
    assert card.lacks(facts, USUALLY) == ()
    assert card.lacks(facts, replace(USUALLY, capabilities=("8.6", "12.0"))) == (
        "compute capability 8.6, 12.0 (here 8.9)",
    )
    assert card.usual("fp8").capabilities == ("8.9",), "an engine made on a PC is for its own card"
