"""Engines compiled by torch (AOTInductor packages) with our kernels inside, on a GPU or the CPU."""

import ctypes
import importlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch._inductor import aoti_load_package

from dvgwm.kernels.affine_step import affine_step
from dvgwm.kernels.bridge import bridge

from ...errors import BundleIncompatibleError, InternalError
from ...sampler import Step
from ...types import FloatArray, Tensor
from ..backend import EngineSpec
from ..buffers import check_inputs
from ..host import finite

OPERATORS = ("attention", "attention_8bit", "modulate", "qk_norm_rope", "quantise", "scaled_linear", "spatial_norm")
"""Modules of `dvgwm.kernels` whose operators a package may call: it cannot be loaded before they are registered."""
GRAPH_WARMUPS = 3
"""Runs before a capture, so that lazy initialisation stays out of it."""


@dataclass(frozen=True, slots=True)
class _Weights:
    """The weights of a package, and the facts missing from the package itself.

    ``tensors`` are the weights, ``layouts`` the strides of inputs that are not contiguous; ``interface`` has
    type and sizes (None: open) of its inputs and of its outputs, empty from an older build.
    """

    tensors: Mapping[str, torch.Tensor]
    layouts: Mapping[str, tuple[int, ...]]
    interface: Sequence[Sequence[tuple[str, list[int | None]]]]


class TorchEngine:
    """One AOTInductor package; on a GPU one captured graph per set of shapes, unless tensors are carried.

    ``uncaptured`` says why a package is launched kernel by kernel nevertheless; else it is empty.
    """

    def __init__(self, path: Path, spec: EngineSpec, device: torch.device, weights: _Weights) -> None:
        self.spec = spec
        self.uncaptured = ""
        self._device = device
        try:
            # Single-threaded is what a capture wants: a runner that threads share asks for its last run's event.
            self._model: Any = aoti_load_package(str(path), run_single_threaded=device.type == "cuda")
        except (RuntimeError, OSError) as error:
            raise BundleIncompatibleError(
                "ENGINE_LOAD", f"torch {torch.__version__} cannot load {path.name}: {error}; rebuild it here"
            ) from error
        self._weights = weights
        _check_interface(path.name, spec, weights)
        self._load_weights(path.name)
        self._graphs: dict[tuple[torch.Size, ...], _Captured] = {}

    def _load_weights(self, name: str) -> None:
        expected = set(self._model.get_constant_fqns())
        if missing := sorted(expected - self._weights.tensors.keys())[:3]:
            raise BundleIncompatibleError(
                "ENGINE_WEIGHTS", f"{name}: {self.spec.weights} lacks {', '.join(missing)}; rebuild the bundle"
            )
        borrowed = {key: self._weights.tensors[key] for key in expected}
        self._model.load_constants(borrowed, check_full_update=True, user_managed=True)

    def warmup(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Tensor]:
        dtypes = {item.name: getattr(torch, item.dtype) for item in self.spec.inputs}
        tensors = {name: torch.zeros(shape, dtype=dtypes[name], device=self._device) for name, shape in shapes.items()}
        outputs = self.run(tensors)
        if self._device.type == "cuda" and not self.spec.carry:
            self._capture([tensors[item.name] for item in self.spec.inputs])
        return outputs

    def _capture(self, inputs: Sequence[torch.Tensor]) -> None:
        """Keep a captured graph for inputs of these shapes; without one the same numbers come later."""
        try:
            self._graphs[tuple(tensor.shape for tensor in inputs)] = _Captured(self._model, inputs)
        except RuntimeError as error:
            self.uncaptured = str(error).strip().split("\n")[0]
            message = f"{self.spec.file} runs without a CUDA graph, and slower for it: {self.uncaptured}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    @torch.inference_mode()
    def run(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self._model is None:
            raise InternalError("ENGINE_CLOSED", f"{self.spec.file} was closed and cannot run")
        check_inputs(self.spec, tensors)
        inputs = [_laid(tensors[item.name], self._weights.layouts.get(item.name)) for item in self.spec.inputs]
        captured = self._graphs.get(tuple(tensor.shape for tensor in inputs))
        outputs = self._model(*inputs) if captured is None else captured.replay(inputs)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        return {item.name: tensor for item, tensor in zip(self.spec.outputs, outputs, strict=True)}

    def close(self) -> None:
        self._model, self._weights = None, _Weights({}, {}, ())
        self._graphs.clear()


def _check_interface(name: str, spec: EngineSpec, weights: _Weights) -> None:
    """Raise `BundleIncompatibleError` if a package was compiled for other tensors than those of ``spec``: it would not ask."""
    for side, stated, compiled in zip(
        ("inputs", "outputs"), (spec.inputs, spec.outputs), weights.interface, strict=False
    ):
        expected = [(item.dtype, [size if isinstance(size, int) else None for size in item.shape]) for item in stated]
        got = [(dtype, sizes) for dtype, sizes in compiled]
        if expected != got:
            raise BundleIncompatibleError(
                "ENGINE_INTERFACE", f"{name}: wanted {side} {expected}, it was compiled for {got}; rebuild the bundle"
            )


def _laid(tensor: torch.Tensor, stride: tuple[int, ...] | None) -> torch.Tensor:
    """Return ``tensor`` with these strides, contiguous if None; itself if it has them."""
    if stride is None:
        return tensor.contiguous()
    # The stride of an axis of one is never used.
    if all(size == 1 or have == want for size, have, want in zip(tensor.shape, tensor.stride(), stride, strict=True)):
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


class _Captured:
    """One run of a package as a CUDA graph on static inputs and outputs."""

    def __init__(self, model: Any, inputs: Sequence[torch.Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(GRAPH_WARMUPS):
                model(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = model(*self._inputs)

    def replay(self, inputs: Sequence[torch.Tensor]) -> Any:
        """Return the static outputs for these inputs."""
        for static, tensor in zip(self._inputs, inputs, strict=True):
            static.copy_(tensor)
        self._graph.replay()
        return self._outputs


class TorchBackend:
    """`backend.Backend` on torch tensors of one device."""

    name = "torch"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return fingerprint(self._device)

    def load(self, path: Path, spec: EngineSpec) -> TorchEngine:
        for module in OPERATORS:
            importlib.import_module(f"dvgwm.kernels.{module}")
        # A package may have been linked with a copy of the C++ library, whose locales are not the process's: that crashed.
        ctypes.CDLL("libstdc++.so.6", ctypes.RTLD_GLOBAL)
        return TorchEngine(path, spec, self._device, self._weights_of(path.parent / spec.weights))

    def _weights_of(self, path: Path) -> _Weights:
        """Return the tensors of a weights file, with the strides that the package was compiled for."""
        with safe_open(path, "pt", str(self._device)) as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        strides, layouts, interface = (json.loads(facts.get(name, "{}")) for name in ("strides", "inputs", "interface"))
        return _Weights(
            {name: _laid(tensor, strides.get(name)) for name, tensor in tensors.items()},
            {name: tuple(stride) for name, stride in layouts.items()},
            interface or (),
        )

    def upload(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device)

    def download(self, tensor: Tensor) -> NDArray[np.generic]:
        host = tensor.detach().cpu()
        array: NDArray[np.generic] = (host.float() if host.dtype == torch.bfloat16 else host).numpy()
        return array.copy()

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))

    def normalise(self, latents: Tensor, mean: FloatArray, std: FloatArray) -> Tensor:
        centre, spread = (self.upload(values.astype(np.float32))[:, None, None] for values in (mean, std))
        return (latents.float() - centre) / spread

    def affine_step(
        self, step: Step, state: Tensor, velocity: Tensor, history: Tensor | None, noise: Tensor | None
    ) -> None:
        affine_step(state, velocity, history, noise, step.coefficients())

    def bridge(
        self, latents: Tensor, scale: FloatArray, shift: FloatArray, noise: Tensor, signal: float, strength: float
    ) -> Tensor:
        channels = latents.shape[2]
        numbers = (self.upload(np.broadcast_to(values, (channels,)).astype(np.float32)) for values in (scale, shift))
        return bridge(latents, *numbers, noise, signal, strength)

    def finite(self, tensor: Tensor) -> bool:
        if isinstance(tensor, np.ndarray):
            return finite(tensor)
        if not tensor.is_floating_point():
            return True
        # A sum is finite only where all its terms are; on a CPU it takes a twentieth of the time of looking at each.
        return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())

    def mark(self) -> Tensor | None:
        if self._device.type == "cpu":
            return None
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def wait(self, mark: Tensor) -> None:
        mark.synchronize()

    def elapsed(self, start: Tensor, end: Tensor) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def fingerprint(device: torch.device) -> dict[str, str]:
    """Return the facts of a package compiled here: the device's name and capability, and torch's version."""
    facts = {"torch": str(torch.__version__), "device": device.type}
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return facts | {"gpu": torch.cuda.get_device_name(device), "capability": f"{major}.{minor}"}
    return facts | {"instructions": str(torch.backends.cpu.get_cpu_capability()), "machine": os.uname().machine}


def open_backend(threads: int | None = None) -> TorchBackend:
    """Return torch on the first GPU, or without one on ``threads`` CPU threads; torch chooses their number if None."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False  # a search may find another kernel in another process, of other bits
    torch.backends.cudnn.allow_tf32 = False  # a float32 engine is within 1e-4 of its network; TF32 convolutions are not
    return TorchBackend(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
