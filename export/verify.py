"""The gate between a build and a bundle: every engine, and the plan's latents and actions, against torch."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dvgwm.models.precision import Precision
from dvgwm.runtime.backends.backend import Backend, EngineSpec
from dvgwm.runtime.backends.host import HostBackend
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.bundle.manifest import Parity
from dvgwm.runtime.errors import DvgwmError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import Observation, Tensor

from .graphs import Graph
from .interface import run_module


@dataclass(frozen=True, slots=True)
class Gate:
    """How far an engine and a whole plan may be from torch in float32, in ``measure`` (max_abs or relative_l2).

    ``engine`` is per dtype of the output, a max_abs of float32 for numbers up to 1; ``control`` is how many tolerances
    another seed has to be away, or the check would pass on a stale buffer.
    """

    measure: str
    engine: Mapping[str, float]
    plan: float
    control: float


LOSSLESS = Gate("max_abs", {"float32": 1e-4, "uint8": 1.0}, 1e-3, 10.0)
"""float32: frames may be one of 255 levels off where rounding falls apart; actions are a share of their range."""
BFLOAT16 = Gate("relative_l2", {"float32": 0.045, "uint8": 0.045}, 0.15, 3.0)
"""A cosine of at least 0.999 for every engine; a plan's errors add up over its steps."""
FP8 = Gate("relative_l2", {"float32": 0.14, "uint8": 0.14}, 0.3, 3.0)
"""A cosine of at least 0.99 for every engine."""


def gate_of(precision: Precision) -> Gate:
    """Return the gate that a precision has to pass."""
    return FP8 if precision.fp8 else LOSSLESS if precision.dtype == torch.float32 else BFLOAT16


ROW = 1 << 22
"""Numbers that are compared at a time: a VAE's cache is gigabytes."""


class ParityError(DvgwmError, ArithmeticError, exit_code=32):
    """An engine that does not compute what its torch module computes."""


def engine_parity(graph: Graph, backend: Backend, path: Path, spec: EngineSpec, limits: Gate) -> dict[str, Parity]:
    """Return the distances of the engine at ``path`` from the module of ``graph``, one per dtype of its outputs.

    Raises `ParityError` beyond the tolerance.
    """
    with torch.no_grad():
        tensors = [torch.from_numpy(array) for array in seeded_inputs(graph, 1).values()]
        expected = [output.numpy() for output in run_module(graph.module, tensors)]
        del tensors
    dtypes = dict.fromkeys(str(array.dtype) for array in expected)
    # One run's outputs at a time: those of a large decoder, its cache among them, are gigabytes.
    distances, controls = (
        _engine_distances(backend, path, spec, seeded_inputs(graph, seed), expected) for seed in (1, 2)
    )
    parity = {}
    for dtype in dtypes:
        name = graph.name if len(dtypes) == 1 else f"{graph.name} ({dtype})"
        allowed = tolerance(limits, [array for array in expected if array.dtype == dtype])
        parity[name] = judge(name, distances[dtype], controls[dtype], limits, allowed)
    return parity


def tolerance(limits: Gate, expected: list[NDArray[Any]]) -> float:
    """Return what ``limits`` allow an engine whose outputs, of one dtype, are ``expected``: rounding grows with the numbers."""
    allowed = limits.engine[str(expected[0].dtype)]
    if limits.measure != "max_abs" or expected[0].dtype != np.float32:
        return allowed
    return allowed * max(1.0, *(float(np.abs(array).max()) for array in expected))


def plan_parity(bundle: Bundle, backend: Backend, graphs: tuple[Graph, ...], limits: Gate) -> dict[str, Parity]:
    """Return the distances of a plan's latents and of its actions; raises `ParityError` beyond the tolerance."""
    portable = Bundle(bundle.path, replace(bundle.manifest, fingerprint={}))  # the reference runs anywhere
    with Pipeline(portable, torch_backend(graphs)) as reference:
        expected = _plan(reference, 1)
    with Pipeline(bundle, backend) as pipeline:
        got, other = _plan(pipeline, 1), _plan(pipeline, 2)
    return {name: gate(name, [expected[name]], [got[name]], [other[name]], limits, limits.plan) for name in expected}


def gate(
    name: str,
    expected: list[NDArray[Any]],
    got: list[NDArray[Any]],
    other: list[NDArray[Any]],
    limits: Gate,
    tolerance: float,
) -> Parity:
    """Return how far ``got``, and ``other`` (another seed), are from ``expected`` over all tensors; raises as `judge`."""
    return judge(name, _distances(expected, got), _distances(expected, other), limits, tolerance)


def judge(
    name: str, distance: Mapping[str, float], control: Mapping[str, float], limits: Gate, tolerance: float
) -> Parity:
    """Return the ``distance`` of a result from what is expected, and that of another seed's.

    Raises `ParityError` where the first is over ``tolerance`` or the second too small to prove anything.
    """
    parity = Parity(
        max_abs=distance["max_abs"],
        relative_l2=distance["relative_l2"],
        cosine=distance["cosine"],
        tolerance=tolerance,
        control=control[limits.measure],
        measure=limits.measure,
    )
    if not distance[limits.measure] <= tolerance:
        raise ParityError(
            "PARITY",
            f"{name}: wanted a {limits.measure} error of at most {tolerance:g}, got {distance[limits.measure]:.3g}; "
            "not written",
        )
    if not parity.control > limits.control * tolerance:
        raise ParityError(
            "PARITY_CONTROL",
            f"{name}: another seed changed the result by {parity.control:.3g} only, so the check proves nothing",
        )
    return parity


def _distances(left: Iterable[NDArray[Any]], right: Iterable[NDArray[Any]]) -> dict[str, float]:
    """Return how far all numbers of ``right`` are from those of ``left``, in three measures."""
    largest, squares = 0.0, np.zeros(4)
    for a, b in _rows(left, right):
        difference = b - a
        largest = np.maximum(largest, np.abs(difference).max())  # NaN stays
        squares += difference @ difference, a @ a, b @ b, a @ b
    apart, norm, other_norm, product = squares
    return {
        "max_abs": float(largest),
        "relative_l2": float(np.sqrt(apart) / max(np.sqrt(norm), 1e-12)),
        "cosine": float(product / max(np.sqrt(norm * other_norm), 1e-12)),
    }


def _rows(
    left: Iterable[NDArray[Any]], right: Iterable[NDArray[Any]]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the numbers a few at a time; frames around their middle grey, so that brightness alone is no likeness."""
    for a, b in zip(left, right, strict=True):
        middle = 127.5 if a.dtype == np.uint8 else 0.0
        for begin in range(0, a.size, ROW):
            part = slice(begin, begin + ROW)
            yield np.ravel(a)[part].astype(np.float64) - middle, np.ravel(b)[part].astype(np.float64) - middle


@dataclass(frozen=True)
class TorchEngine:
    """`backend.Engine` that runs the torch module a graph was exported from."""

    spec: EngineSpec
    graph: Graph

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        """Return what zeros give: the reference has no buffers."""
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
    return HostBackend("torch reference", lambda path, spec: TorchEngine(spec, by_name[path.stem]))


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
    backend: Backend, path: Path, spec: EngineSpec, inputs: dict[str, NDArray[Any]], expected: list[NDArray[Any]]
) -> dict[str, dict[str, float]]:
    """Return how far the outputs of the engine at ``path`` are from what is ``expected``, for each dtype."""
    engine = backend.load(path, spec)
    try:
        tensors = {part.name: backend.upload(inputs.pop(part.name)) for part in spec.inputs}
        for part in spec.inputs:
            if part.dtype == "bfloat16":
                tensors[part.name] = tensors[part.name].bfloat16()  # numpy has none
        outputs = engine.run(tensors)
        pairs = [(right, outputs[part.name]) for right, part in zip(expected, spec.outputs, strict=True)]
        return {
            dtype: _distances(
                [right for right, _ in pairs if right.dtype == dtype],
                (backend.download(output) for right, output in pairs if right.dtype == dtype),
            )
            for dtype in dict.fromkeys(str(right.dtype) for right in expected)
        }
    finally:
        engine.close()


def _plan(pipeline: Pipeline, seed: int) -> dict[str, NDArray[Any]]:
    contract, action = pipeline.manifest.input, pipeline.manifest.action
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (contract.height_px // 8, contract.width_px // 8, 3), np.uint8)
    image = np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1))
    observations = [Observation({contract.camera: image}, np.zeros(len(action.names)), 0.0)]
    plan = pipeline.imagine(observations, "put the banana into the bowl", seed)
    chunk = pipeline.act(plan, observations, plan.instruction)
    span = np.asarray(action.upper) - np.asarray(action.lower)
    return {f"plan: {name}": array for name, array in plan.latents.items()} | {"plan: actions": chunk.actions / span}
