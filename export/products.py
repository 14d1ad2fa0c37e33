"""Makes the files of a bundle, each a product of the workshop: weights, tokenizer, graphs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from dvgwm.models.graph import Graph
from dvgwm.models.networks import Networks
from dvgwm.runtime.bundle.tokenizer import TOKENIZER_FILE

from .aoti import export_package, traced, write_weights
from .intake import Intake
from .onnx_graph import export_onnx
from .shared_weights import Place, places, weights_of
from .workshop import Workshop

Report = Callable[[str, str, int, int], None]
"""Called with a step, what it works on, how many parts are done and how many there are."""
Write = Callable[[Path], object]
QUANTISED = {"preview": "preview", "refine": "refiner"}
"""Graphs of which 8-bit precisions quantise layers, and the network that these are of."""
APART = "float."
"""What the names of their files begin with before they are quantised."""


@dataclass(frozen=True, slots=True)
class Products:
    """The bundle's ``files`` by name, each part's ``weights`` among them, and the names of those ``made`` now."""

    files: Mapping[str, Path]
    weights: Mapping[str, Sequence[Path]]
    made: tuple[str, ...]

    @property
    def reused(self) -> tuple[str, ...]:
        """The names of products finished before."""
        return tuple(name for name in self.files if name not in self.made)

    def with_more(self, more: "Products") -> "Products":
        """Return these and ``more`` files."""
        return Products({**self.files, **more.files}, self.weights, (*self.made, *more.made))


def make_products(
    compiled: Sequence[Graph], taken: Intake, workshop: Workshop, report: Report, quantised: bool = False
) -> Products:
    """Return the products of the ``compiled`` graphs and of the networks ``taken`` in; finished ones are kept.

    If some are to be ``quantised``, their files are set apart by their names.
    """
    files: dict[str, Path] = {}
    made: list[str] = []
    stored, onnx = taken.stored, compiled[0].suffix == "onnx"
    parts: dict[str, Mapping[str, Write]] = dict(stored.files()) if onnx else {}
    for part in parts.keys() & QUANTISED.values() if quantised else ():
        parts[part] = {f"{APART}{name}": write for name, write in parts[part].items()}
    total, done = len(compiled) + sum(map(len, parts.values())), 0

    def product(name: str, write: Write) -> None:
        files[name], new = workshop.product(name, write)
        made.extend([name] if new else [])

    tokenizer = taken.tokenizer
    if tokenizer is not None:
        product(TOKENIZER_FILE, lambda path: path.write_bytes(tokenizer))
    for writes in parts.values():
        for name, write in writes.items():
            report("export", name, done, total)
            product(name, write)
            done += 1
    weights = {part: [files[name] for name in writes] for part, writes in parts.items()}
    known = {part: places(paths) for part, paths in weights.items()}
    for graph in compiled:
        report("export", graph.name, done, total)
        for name, write in _graph_files(graph, stored.networks, known).items():
            product(f"{APART}{name}" if quantised and graph.name in QUANTISED else name, write)
        done += 1
    report("export", "", total, total)
    return Products(files, weights, tuple(made))


def _graph_files(graph: Graph, networks: Networks, known: Mapping[str, Mapping[str, Place]]) -> dict[str, Write]:
    """Return a writer of each file of ``graph``; an ONNX graph reads its weights from their ``known`` places."""
    if graph.suffix == "onnx":

        def write(path: Path) -> None:
            weights = weights_of(graph.module, networks.parts(), known)
            export_onnx(graph.module, graph.inputs, graph.outputs, graph.dynamic, path, graph.opset, weights)

        return {graph.file: write}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    program = cache(lambda: traced(graph.module, graph.inputs, graph.dynamic, device))
    return {
        graph.file: lambda path: export_package(program(), path),
        graph.weights: lambda path: write_weights(program(), graph.inputs, path),
    }
