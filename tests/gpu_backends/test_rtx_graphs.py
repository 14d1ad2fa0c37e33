"""Every graph of other presets in TensorRT for RTX's real builder: diffusers' classes tiny, and at full width."""

import resource
import shutil

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

from dvgwm.export.assembly import build_bundle
from dvgwm.export.graphs import graphs
from dvgwm.export.interface import engine_spec
from dvgwm.export.onnx_graph import export_onnx
from dvgwm.export.order import Order
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.runtime.backends.compiling import GraphSource

pytestmark = [pytest.mark.torch, pytest.mark.slow]
TINY = preset("test_tiny")
USUAL = ("8.6", "8.9", "12.0")


@pytest.fixture
def made(rtx_compiler, tmp_path):
    """Return a build's outcome, and the words on its room; nothing of it is kept."""

    def of(preset, precision, **given):
        told = []
        order = Order(preset, "tensorrt_rtx", tmp_path / "b", 0, ("export", "build"), precision=precision, **given)
        return build_bundle(order, lambda *_: None, told.append), told[-1], tmp_path / ".b.build"

    yield of
    shutil.rmtree(tmp_path / ".b.build", ignore_errors=True)


def are_compiled(outcome, place):
    engines = outcome.manifest.compiled
    graphs = {engine.file for stage in outcome.manifest.pipeline for engine in stage.engines.values()}
    assert {engine.graph for engine in engines} == graphs
    assert len(graphs) == 9
    assert {engine.building.capabilities for engine in engines} == {USUAL}
    return [(place / engine.file).stat().st_size for engine in engines]


@pytest.mark.parametrize("name", ["text_encoder", "encode_low", "preview", "refine", "frame_encoder", "policy"])
def test_a_graph_of_the_full_size_systems_classes_compiles(rtx_compiler, tmp_path, name):
    """All of `test_tiny` in float32 but the decoders: their export alone takes a minute, so they are in the next test."""
    (graph,) = (graph for graph in graphs(TINY, build(TINY, 0)) if graph.name == name)
    path = tmp_path / graph.file
    export_onnx(graph.module, graph.inputs, graph.outputs, graph.dynamic, path, graph.opset)
    shapes = {name: tuple(tensor.shape) for name, tensor in graph.inputs.items()}
    with (tmp_path / "engine").open("wb") as file:
        rtx_compiler.write(
            GraphSource(path, engine_spec(graph), shapes, "g", "w"),
            rtx_compiler.usual("float32"),
            file.fileno(),
            lambda *_: None,
        )
    assert (tmp_path / "engine").stat().st_size > 10_000


@pytest.mark.thorough
@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.longest), "bfloat16"])
def test_every_graph_of_the_full_size_systems_classes_compiles(made, precision):
    outcome, _, place = made("test_tiny", precision)
    assert min(are_compiled(outcome, place)) > 10_000


@pytest.mark.thorough
def test_two_layers_at_full_width_compile_with_the_whole_decoder(made):
    """`dvgwm_5b` in bfloat16, its decoder at 480x720; its room is as was said beforehand."""
    outcome, told, place = made("dvgwm_5b", "bfloat16", layers=2)
    size_gb = sum(are_compiled(outcome, place)) / 1e9
    said_gb, memory_gb = (float(part.split()[-1]) for part in told.split(" GB")[:2])
    assert 0.8 * size_gb < said_gb < 1.3 * size_gb
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    assert peak_gb < memory_gb < 2.5 * peak_gb
