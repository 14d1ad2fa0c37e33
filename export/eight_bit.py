"""From exported graphs to those of 8 bits: ranges from recorded scenes, then weights, then graphs, each a product."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx
from onnxscript import ir

from dvgwm.models.precision import GraphPrecision
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.bundle.manifest import FileRecord, Manifest
from dvgwm.runtime.errors import InternalError
from dvgwm.runtime.types import FloatArray

from .calibration import Calibration, calibrate
from .linear_layers import Linear, linear_layers
from .products import APART, QUANTISED, Products, Report, Write
from .quantise import quantise_graph, quantise_weights, smoothing
from .scenes import ExampleScene
from .shared_weights import places
from .workshop import Workshop

CALIBRATION = "calibration.safetensors"


@dataclass(frozen=True, slots=True)
class _Apart:
    """A graph set apart, the files of its network's weights, and its layers to quantise."""

    name: str
    path: Path
    weights: Sequence[Path]
    layers: tuple[Linear, ...]


def quantised(
    products: Products,
    manifest: Manifest,
    precision: GraphPrecision,
    scenes: Sequence[ExampleScene],
    workshop: Workshop,
    report: Report,
) -> tuple[Products, Calibration]:
    """Return ``products`` with the graphs set apart in 8 bits, and the facts of their calibration.

    ``manifest`` is the one of the bundle to be, ``scenes`` are recorded: none if activations stay as they are.
    """
    apart = list(_apart(products))
    calibration = Calibration({}, {})
    if precision.activations:
        listed = {name: FileRecord(0, "") for name in (*products.files, *(f"{one.name}.onnx" for one in apart))}
        draft = Bundle(workshop.path, replace(manifest, files=listed))
        path, _ = workshop.product(CALIBRATION, partial(_write_ranges, draft, apart, scenes, report))
        calibration = Calibration.load(path)
    files = {name: path for name, path in products.files.items() if not name.startswith(APART)}
    made = [name for name in products.made if not name.startswith(APART)]
    writes = [(name, write) for one in apart for name, write in _writes(one, calibration, precision, workshop.path)]
    for index, (name, write) in enumerate(writes):
        report("build", f"{name} in 8 bits", index, len(writes))
        files[name], new = workshop.product(name, write)
        made.extend([name] if new else [])
    report("build", "", len(writes), len(writes))
    return Products(files, products.weights, tuple(made)), calibration


def _apart(products: Products) -> Iterator[_Apart]:
    for name, part in QUANTISED.items():
        if path := products.files.get(f"{APART}{name}.onnx"):
            weights = products.weights[part]
            layers = linear_layers(onnx.load(path, load_external_data=False), places(weights))
            if not layers:
                raise InternalError("QUANTISE_LAYERS", f"{path.name} has no linear layer that 8 bits are for")
            yield _Apart(name, path, weights, layers)


def _write_ranges(
    draft: Bundle, apart: Sequence[_Apart], scenes: Sequence[ExampleScene], report: Report, path: Path
) -> None:
    graphs, layers = {one.name: one.path for one in apart}, {one.name: one.layers for one in apart}
    planned = calibrate(draft, graphs, layers, scenes)
    calibration = Calibration({}, {})
    for index in range(len(scenes)):
        report("build", "ranges of a recorded scene", index, len(scenes))
        calibration = next(planned)
    calibration.save(path)


def _writes(
    one: _Apart, calibration: Calibration, precision: GraphPrecision, folder: Path
) -> Iterator[tuple[str, Write]]:
    """Yield the function to write each file of a graph in 8 bits, by name: the weights, then the graph."""
    ranges = calibration.ranges.get(one.name, {})
    factors = smoothing(one.layers, one.weights, ranges, precision)
    for path in one.weights:
        yield path.name.removeprefix(APART), partial(_write_weights, path, one, factors, precision)
    yield f"{one.name}.onnx", partial(_write_graph, folder, one, factors, ranges, precision)


def _write_weights(
    path: Path, one: _Apart, factors: Mapping[str, FloatArray], precision: GraphPrecision, out: Path
) -> None:
    quantise_weights(path, out, one.layers, factors, precision)


def _write_graph(
    folder: Path,
    one: _Apart,
    factors: Mapping[str, FloatArray],
    ranges: Mapping[str, FloatArray],
    precision: GraphPrecision,
    out: Path,
) -> None:
    model, files = ir.load(one.path), [folder / path.name.removeprefix(APART) for path in one.weights]
    quantise_graph(model, one.weights, files, one.layers, factors, ranges, precision)
    out.write_bytes(ir.to_proto(model).SerializeToString())
