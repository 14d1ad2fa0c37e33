"""The gate between a build and a bundle: every engine, and the plan's latents and actions, against torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dvgwm.models.graph import Graph
from dvgwm.runtime.backends.backend import Backend, EngineSpec
from dvgwm.runtime.backends.host import HostBackend
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.bundle.manifest import Manifest, Parity
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import Tensor, TensorSpec

from .interface import run_module
from .parity import Gate, distances, gate, judge, tolerance
from .scenes import ExampleScene, drawn

_HALVES = ("float16", "bfloat16")
Inputs = Mapping[str, NDArray[Any]]


def engine_parity(
    graph: Graph, backend: Backend, path: Path, spec: EngineSpec, limits: Gate, inputs: Sequence[Inputs] = ()
) -> dict[str, Parity]:
    """Return the distances of the engine at ``path`` from the module of ``graph``, one per dtype of its outputs.

    They are of the first of two ``inputs`` (without any, of random numbers), and the control of the other.
    Raises `ParityError` beyond the tolerance.
    """
    shown = inputs or seeded_pair(graph)
    # On disk, and one run's outputs at a time: those of a large decoder, its cache among them, are gigabytes.
    with TemporaryDirectory(dir=path.parent, prefix="reference.") as folder:
        expected = _reference(graph, shown[0], Path(folder))
        apart, controls = (_engine_distances(backend, path, spec, dict(given), expected) for given in shown)
        parity = {}
        for dtype in apart:
            name = graph.name if len(apart) == 1 else f"{graph.name} ({dtype})"
            allowed = tolerance(limits, _of_dtype(expected, dtype))
            parity[name] = judge(name, apart[dtype], controls[dtype], limits, allowed)
        return parity


def _reference(graph: Graph, inputs: Inputs, folder: Path) -> list[Path]:
    """Write the outputs of the graph's module for these ``inputs``, and return their files."""
    tensors = [torch.from_numpy(inputs[name]) for name in graph.inputs]
    with torch.no_grad():
        outputs = run_module(graph.module, tensors)
    paths = [folder / f"{index}.npy" for index in range(len(outputs))]
    for path, output in zip(paths, outputs, strict=True):
        np.save(path, output.numpy())
    return paths


def _of_dtype(paths: list[Path], dtype: str) -> Iterator[NDArray[Any]]:
    """Yield the arrays of ``dtype`` among the files."""
    return (np.load(path) for path in paths if np.load(path, mmap_mode="r").dtype == dtype)


def plan_parity(
    bundle: Bundle,
    backend: Backend,
    graphs: tuple[Graph, ...],
    limits: Gate,
    scenes: Sequence[ExampleScene] = (),
    compiled: Mapping[str, Path] | None = None,
) -> dict[str, Parity]:
    """Return the distances of a plan's latents and of its actions; raises `ParityError` beyond the tolerance.

    The plan is of the first of two ``scenes`` (without any, of a drawn one), and the control of the other. ``compiled`` has the
    places of engines made on this machine.
    """
    first, second = scenes or [drawn(bundle.manifest, seed) for seed in (1, 2)]
    with Pipeline(Bundle(bundle.path, _in_float32(bundle.manifest)), torch_backend(graphs)) as reference:
        expected = _plan(reference, first, 1)
    with Pipeline(bundle, backend, compiled=compiled) as pipeline:
        got, other = _plan(pipeline, first, 1), _plan(pipeline, second, 2)
    return {name: gate(name, [expected[name]], [got[name]], [other[name]], limits, limits.plan) for name in expected}


def _in_float32(manifest: Manifest) -> Manifest:
    """Return the manifest of the reference: its engines give and take float32; it runs anywhere."""

    def plain(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(part, dtype="float32") if part.dtype in _HALVES else part for part in specs)

    stages = (
        replace(
            stage,
            engines={
                role: replace(engine, inputs=plain(engine.inputs), outputs=plain(engine.outputs))
                for role, engine in stage.engines.items()
            },
        )
        for stage in manifest.pipeline
    )
    return replace(manifest, fingerprint={}, pipeline=tuple(stages))


@dataclass(frozen=True)
class ReferenceEngine:
    """A `backend.Engine` around a graph's torch module."""

    spec: EngineSpec
    graph: Graph

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        """Return the outputs for zeros: the reference has no buffers."""
        return self.run({spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in self.spec.inputs})

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with torch.no_grad():
            inputs = [torch.from_numpy(np.ascontiguousarray(tensors[name])) for name in self.graph.inputs]
            outputs = run_module(self.graph.module, inputs)
        return {name: output.numpy() for name, output in zip(self.graph.outputs, outputs, strict=True)}

    def close(self) -> None:
        """Do nothing."""


def torch_backend(graphs: tuple[Graph, ...]) -> HostBackend:
    """Return the reference: the runtime's own loop around the torch modules."""
    by_name = {graph.name: graph for graph in graphs}
    return HostBackend("torch reference", lambda path, spec: ReferenceEngine(spec, by_name[path.stem]))


def seeded_pair(graph: Graph, modulate: Graph | None = None) -> list[Inputs]:
    """Return two sets of random inputs of ``graph``; ``modulate`` adds the modulations of their times to them."""
    pair: list[Inputs] = [seeded_inputs(graph, seed) for seed in (1, 2)]
    if modulate is None:
        return pair
    with torch.no_grad():
        return [{**inputs, "modulation": modulate.module(torch.from_numpy(inputs["time"])).numpy()} for inputs in pair]


def seeded_inputs(graph: Graph, seed: int) -> dict[str, NDArray[Any]]:
    """Return random inputs of the example's shapes; times are a random share of the example's."""
    return dict(_seeded(graph, np.random.default_rng(seed)))


def _seeded(graph: Graph, rng: np.random.Generator) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, example in graph.inputs.items():
        if example.dtype == torch.uint8:
            yield name, rng.integers(0, 256, example.shape, np.uint8)
        elif example.dtype == torch.int64:
            yield name, rng.integers(3, 250, example.shape)
        elif name == "time":
            yield name, (example.numpy() * rng.uniform(0.2, 1.8)).astype(np.float32)
        else:
            yield name, rng.standard_normal(example.shape, np.float32)


def _engine_distances(
    backend: Backend, path: Path, spec: EngineSpec, inputs: dict[str, NDArray[Any]], expected: list[Path]
) -> dict[str, dict[str, float]]:
    """Return the distance of the outputs of the engine at ``path`` from the ``expected``, for each dtype."""
    engine = backend.load(path, spec)
    try:
        for part in spec.inputs:
            if part.dtype == "float16":  # a decoder's cache, where the reference's is in float32
                inputs[part.name] = inputs[part.name].astype(np.float16)
        tensors = {part.name: backend.upload(inputs.pop(part.name)) for part in spec.inputs}
        for part in spec.inputs:
            if part.dtype == "bfloat16":
                tensors[part.name] = tensors[part.name].bfloat16()  # numpy has none
        outputs = engine.run(tensors)
        kinds = [str(np.load(path, mmap_mode="r").dtype) for path in expected]
        return {
            dtype: distances(
                _of_dtype(expected, dtype),
                (
                    backend.download(outputs[p.name])
                    for p, kind in zip(spec.outputs, kinds, strict=True)
                    if kind == dtype
                ),
            )
            for dtype in dict.fromkeys(kinds)
        }
    finally:
        engine.close()


def _plan(pipeline: Pipeline, scene: ExampleScene, seed: int) -> dict[str, NDArray[Any]]:
    action = pipeline.manifest.action
    plan = pipeline.imagine([scene.observation], scene.instruction, seed)
    chunk = pipeline.act(plan, [scene.observation], plan.instruction)
    span = np.asarray(action.upper) - np.asarray(action.lower)
    return {f"plan: {name}": array for name, array in plan.latents.items()} | {"plan: actions": chunk.actions / span}
