"""Measures the inputs of layers to quantise, while recorded scenes are planned."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from dvgwm.runtime.backends.backend import Engine, EngineSpec
from dvgwm.runtime.backends.host import HostBackend
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import FloatArray, Tensor, TensorSpec

from .linear_layers import Linear
from .scenes import HELD_OUT, ExampleScene


@dataclass(frozen=True, slots=True)
class Calibration:
    """By graph: the largest magnitude of every channel of its layers' inputs, by tensor; and the inputs of held-out scenes."""

    ranges: Mapping[str, Mapping[str, FloatArray]]
    inputs: Mapping[str, Sequence[Mapping[str, NDArray[np.generic]]]]

    def save(self, path: Path) -> None:
        """Write it to ``path``."""
        tensors: dict[str, NDArray[Any]] = {
            f"range/{g}/{name}": array for g, named in self.ranges.items() for name, array in named.items()
        }
        for graph, scenes in self.inputs.items():
            tensors |= {f"input/{graph}/{i}/{name}": x for i, given in enumerate(scenes) for name, x in given.items()}
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)

    @staticmethod
    def load(path: Path) -> "Calibration":
        """Return the calibration written to ``path``."""
        ranges: dict[str, dict[str, FloatArray]] = {}
        inputs: dict[str, list[dict[str, NDArray[np.generic]]]] = {}
        for key, array in sorted(load_file(path).items()):
            kind, graph, name = key.split("/", 2)
            if kind == "range":
                ranges.setdefault(graph, {})[name] = array
            else:
                scene, name = name.split("/", 1)
                given = inputs.setdefault(graph, [{} for _ in range(HELD_OUT)])
                given[int(scene)][name] = array
        return Calibration(ranges, inputs)


def calibrate(
    draft: Bundle, graphs: Mapping[str, Path], layers: Mapping[str, Sequence[Linear]], scenes: Sequence[ExampleScene]
) -> Iterator[Calibration]:
    """Plan every one of the ``scenes`` with the engines of ``draft``, and yield the calibration after each.

    ``graphs`` have ``layers`` to look at, by name, beside their weights. The last `HELD_OUT`
    scenes add nothing to the ranges; the inputs of each engine's last run in them are kept.
    """
    onnx_runtime = open_backend("onnx", None)
    watched: dict[str, _Watched] = {}

    def load(path: Path, spec: EngineSpec) -> Engine:
        if path.stem not in graphs:
            return onnx_runtime.load(path, spec)
        watched[path.stem] = engine = _watch(graphs[path.stem], spec, layers[path.stem], onnx_runtime.load)
        return engine

    inputs: dict[str, list[Mapping[str, NDArray[np.generic]]]] = {name: [] for name in graphs}
    with Pipeline(draft, HostBackend("onnx", load)) as pipeline:
        for index, scene in enumerate(scenes):
            held_out = index >= len(scenes) - HELD_OUT
            for engine in watched.values():
                engine.counts = not held_out
            pipeline.imagine([scene.observation], scene.instruction, index)
            if held_out:
                for name, engine in watched.items():
                    inputs[name].append(engine.last)
            yield Calibration({name: dict(engine.ranges) for name, engine in watched.items()}, inputs)


class _Watched:
    """An engine with the ranges of its layers' inputs among its outputs."""

    def __init__(self, engine: Engine, spec: EngineSpec) -> None:
        self._engine, self.spec = engine, spec
        self.ranges: dict[str, FloatArray] = {}
        self.last: Mapping[str, NDArray[np.generic]] = {}
        self.counts = False

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        return self._engine.warmup(shapes)

    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        self.last = {name: np.array(tensor) for name, tensor in tensors.items()}
        outputs = dict(self._engine.run(tensors))
        for part in self._engine.spec.outputs[len(self.spec.outputs) :]:
            largest, name = outputs.pop(part.name), part.name.removesuffix(_RANGE)
            if self.counts:
                self.ranges[name] = np.maximum(self.ranges.get(name, 0.0), largest)
        return outputs

    def close(self) -> None:
        self._engine.close()


_RANGE = ".range"


def _watch(
    path: Path, spec: EngineSpec, layers: Sequence[Linear], load: Callable[[Path, EngineSpec], Engine]
) -> _Watched:
    """Return the engine of the graph at ``path`` with an output for the range of each of its layers' inputs."""
    model = onnx.load(path, load_external_data=False)
    channels = {layer.taken: layer.place.shape[1] for layer in layers}
    for name, count in channels.items():
        model.graph.node.extend(_range_of(name))
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(f"{name}{_RANGE}", onnx.TensorProto.FLOAT, [count])
        )
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, count]), f"{name}.rows"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "range.axes"))
    beside = path.with_name(f"watched.{path.name}")
    beside.write_bytes(model.SerializeToString())
    more = tuple(TensorSpec(f"{name}{_RANGE}", (count,), "float32") for name, count in channels.items())
    engine = load(beside, replace(spec, outputs=spec.outputs + more))
    beside.unlink()
    return _Watched(engine, spec)


def _range_of(name: str) -> list[onnx.NodeProto]:
    """Return the nodes for the largest magnitude of every channel of a tensor of any rank."""
    make = onnx.helper.make_node
    return [
        make("Reshape", [name, f"{name}.rows"], [f"{name}.tokens"]),
        make("Cast", [f"{name}.tokens"], [f"{name}.float"], to=onnx.TensorProto.FLOAT),
        make("Abs", [f"{name}.float"], [f"{name}.magnitude"]),
        make("ReduceMax", [f"{name}.magnitude", "range.axes"], [f"{name}{_RANGE}"], keepdims=0),
    ]
