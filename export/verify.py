"""The gate between a build and a bundle: every engine, and the plan's latents and actions, against torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dvgwm.runtime.backend import Backend, EngineSpec
from dvgwm.runtime.bundle import Bundle
from dvgwm.runtime.errors import DvgwmError
from dvgwm.runtime.host import HostBackend
from dvgwm.runtime.manifest import Parity
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import Observation, Tensor

from .graphs import Graph
from .interface import run_module

ENGINE_TOLERANCE = {"float32": 1e-4, "uint8": 1.0}
"""Largest absolute error of an engine in float32; frames may be one of 255 levels off where rounding falls apart."""
PLAN_TOLERANCE = 1e-3
"""Largest absolute error of a whole plan's latents, and of its actions as a share of their range."""
CONTROL_FACTOR = 10.0
"""Another seed has to change the result by this many tolerances, or the check would pass on a stale buffer."""


class ParityError(DvgwmError, ArithmeticError):
    """An engine that does not compute what its torch module computes."""

    exit_code = 32


def engine_parity(graph: Graph, backend: Backend, path: Path, spec: EngineSpec) -> dict[str, Parity]:
    """Return the distances of the engine at ``path`` from its module, one per dtype of its outputs.

    Raises `ParityError` beyond the tolerance.
    """
    engine = backend.load(path, spec)
    try:
        got, other = (_run(engine, seeded_inputs(graph, seed)) for seed in (1, 2))
    finally:
        engine.close()
    with torch.no_grad():
        tensors = [torch.from_numpy(array) for array in seeded_inputs(graph, 1).values()]
        wanted = [output.numpy() for output in run_module(graph.module, tensors)]
    dtypes = dict.fromkeys(str(array.dtype) for array in wanted)
    parity = {}
    for dtype in dtypes:
        left, right, far = ([array for array in side if array.dtype == dtype] for side in (wanted, got, other))
        name = graph.name if len(dtypes) == 1 else f"{graph.name} ({dtype})"
        parity[name] = gate(name, left, right, far, ENGINE_TOLERANCE[dtype])
    return parity


def plan_parity(bundle: Bundle, backend: Backend, graphs: tuple[Graph, ...]) -> dict[str, Parity]:
    """Return the distances of a plan's latents and of its actions; raises `ParityError` beyond the tolerance."""
    with Pipeline(bundle, torch_backend(graphs)) as reference:
        wanted = _plan(reference, 1)
    with Pipeline(bundle, backend) as pipeline:
        got, other = _plan(pipeline, 1), _plan(pipeline, 2)
    return {name: gate(name, [wanted[name]], [got[name]], [other[name]], PLAN_TOLERANCE) for name in wanted}


def gate(
    name: str,
    wanted: list[NDArray[Any]],
    got: list[NDArray[Any]],
    other: list[NDArray[Any]],
    tolerance: float,
) -> Parity:
    """Return how far ``got`` is from ``wanted``, over all tensors, and ``other`` (another seed) from ``got``.

    Raises `ParityError` where the first distance is over ``tolerance`` or the second too small to prove anything.
    """
    left, right, far = (np.concatenate([np.ravel(a).astype(np.float64) for a in side]) for side in (wanted, got, other))
    difference, norms = right - left, np.linalg.norm(left) * np.linalg.norm(right)
    parity = Parity(
        max_abs=float(np.abs(difference).max()),
        relative_l2=float(np.linalg.norm(difference) / max(float(np.linalg.norm(left)), 1e-12)),
        cosine=float(left @ right / max(float(norms), 1e-12)),
        tolerance=tolerance,
        control=float(np.abs(far - right).max()),
    )
    if not parity.max_abs <= tolerance:
        raise ParityError(
            "PARITY", f"{name}: wanted a max abs error of at most {tolerance:g}, got {parity.max_abs:.3g}; not written"
        )
    if not parity.control > CONTROL_FACTOR * tolerance:
        raise ParityError(
            "PARITY_CONTROL",
            f"{name}: another seed changed the result by {parity.control:.3g} only, so the check proves nothing",
        )
    return parity


@dataclass(frozen=True)
class TorchEngine:
    """`backend.Engine` that runs the torch module a graph was exported from."""

    spec: EngineSpec
    graph: Graph

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Do nothing: the reference has no buffers."""

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with torch.no_grad():
            inputs = [torch.from_numpy(np.ascontiguousarray(tensors[name])) for name in self.graph.inputs]
            outputs = run_module(self.graph.module, inputs)
        return {name: output.numpy() for name, output in zip(self.graph.outputs, outputs, strict=True)}

    def close(self) -> None:
        """Do nothing."""


def torch_backend(graphs: tuple[Graph, ...]) -> HostBackend:
    """Return the reference: the runtime's own loop around the torch modules."""
    by_file = {graph.file: graph for graph in graphs}
    return HostBackend("torch reference", lambda path, spec: TorchEngine(spec, by_file[path.name]))


def seeded_inputs(graph: Graph, seed: int) -> dict[str, NDArray[Any]]:
    """Return random inputs of the example's shapes; times are a random share of the example's."""
    return dict(_seeded(graph, np.random.default_rng(seed)))


def _seeded(graph: Graph, rng: np.random.Generator) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, example in graph.inputs.items():
        array = example.numpy()
        if array.dtype == np.uint8:
            yield name, rng.integers(0, 256, array.shape, np.uint8)
        elif array.dtype == np.int64:
            yield name, rng.integers(3, 250, array.shape)
        elif name == "time":
            yield name, (array * rng.uniform(0.2, 1.8)).astype(np.float32)
        else:
            yield name, rng.standard_normal(array.shape, np.float32)


def _run(engine: Any, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    outputs = engine.run(inputs)
    return [np.array(outputs[spec.name]) for spec in engine.spec.outputs]


def _plan(pipeline: Pipeline, seed: int) -> dict[str, NDArray[Any]]:
    contract, action = pipeline.manifest.input, pipeline.manifest.action
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (contract.height_px // 8, contract.width_px // 8, 3), np.uint8)
    image = np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1))
    seen = [Observation({contract.camera: image}, np.zeros(len(action.names)), 0.0)]
    plan = pipeline.imagine(seen, "put the banana into the bowl", seed)
    chunk = pipeline.act(plan, seen, plan.instruction)
    span = np.asarray(action.upper) - np.asarray(action.lower)
    return {f"plan: {name}": array for name, array in plan.latents.items()} | {"plan: actions": chunk.actions / span}
