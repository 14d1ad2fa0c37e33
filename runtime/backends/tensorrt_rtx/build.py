"""Compiles ONNX graphs with TensorRT for RTX, ahead of time: its builder needs neither a GPU nor a driver.

The facts are from release 1.7 and NVIDIA's support matrix for it.
"""

import mmap
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, RecordingError
from ...profiler import available_memory_bytes
from ..backend import Footprint
from ..compiling import Building, GraphSource, Report
from ..tensorrt.build import TensorrtCompiler, differing
from .apart import compile_apart

GPUS: Mapping[str, str] = {
    "8.0": "A100, A30",
    "8.6": "GeForce RTX 30, RTX A2000 to A6000",
    "8.9": "GeForce RTX 40, RTX Ada",
    "12.0": "GeForce RTX 50, RTX PRO Blackwell",
    "12.1": "DGX Spark",
}
"""GPUs by compute capability."""
USUAL = ("8.6", "8.9", "12.0")
"""The compute capabilities of engines if none are named."""
_REFUSED: Mapping[str, str] = {
    "7.5": "on Turing it multiplies no float32 matrices, and there is no bfloat16; take --backend onnx_cuda",
    "8.7": "a Jetson Orin is not one of its GPUs; take --backend tensorrt on the Jetson",
    "9.0": "Hopper (H100, H200) is not one of its GPUs; take --backend tensorrt on the GPU",
    "10.0": "data-centre Blackwell is not one of its GPUs; take --backend tensorrt on the GPU",
    "10.3": "data-centre Blackwell is not one of its GPUs; take --backend tensorrt on the GPU",
    "11.0": "a Jetson Thor is not one of its GPUs; take --backend tensorrt on the Jetson",
}
_FP8_FROM = (8, 9)
_CODE_BYTES, _BASE_BYTES, _COPIES = 3e6, 0.5e9, 3.5
"""Measured: an engine's code, for any number of GPUs; the builder's memory is a base and copies of the largest weights."""


class RtxCompiler(TensorrtCompiler):
    """`compiling.Compiler` with the module ``trt``; ``capability`` is the GPU's compute capability, None without a GPU."""

    name, title = "tensorrt_rtx", "TensorRT for RTX"

    def __init__(self, trt: Any, capability: str | None = None) -> None:
        super().__init__(trt, {})
        self._capability = capability

    def usual(self, precision: str) -> Building:
        """Return a build for this machine's GPU, or without one for the usual GPUs with numbers of this precision."""
        everywhere = tuple(each for each in USUAL if precision != "fp8" or _number(each) >= _FP8_FROM)
        return Building(refit=False, capabilities=(self._capability,) if self._capability else everywhere)

    def lacks(self, facts: Mapping[str, str], building: Building) -> tuple[str, ...]:
        here = self._capability
        if here is None or here in building.capabilities:
            return differing(facts, self.facts)
        return (*differing(facts, self.facts), f"compute capability {', '.join(building.capabilities)} (here {here})")

    def check(self, sources: Sequence[GraphSource], building: Building, precision: str) -> str:
        check_building(building, precision)
        footprints = [source.spec.footprint or Footprint(0, 0, 0, 0) for source in sources]
        weights = [footprint.weights_bytes for footprint in footprints]
        needed = _BASE_BYTES + _COPIES * max(weights, default=0)
        if needed > (available := available_memory_bytes()):
            raise ConfigError(
                "COMPILE_MEMORY",
                f"{self.title} wants about {needed / 1e9:.1f} GB of memory for the largest engine, "
                f"{available / 1e9:.1f} GB are available; close other programs, take a larger machine or a smaller --precision",
            )
        size = sum(weights) + _CODE_BYTES * len(sources)
        room = f"about {size / 1e9:.2f} GB, and {needed / 1e9:.1f} GB of memory while they are compiled"
        return f"engines for {gpus_of(building)}: {room}"

    def refit(self, engine: Path, source: GraphSource) -> None:
        return None

    def compile(self, source: GraphSource, building: Building, timings: Path, report: Report) -> memoryview:
        """As `compiling.Compiler.compile`; the engine's bytes lie in a file without a name and take no memory."""
        with tempfile.TemporaryFile(dir=timings.parent) as file:
            compile_apart(source, building, file.fileno(), report)
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def write(self, source: GraphSource, building: Building, descriptor: int, report: Report) -> None:
        """Write the engine of ``source`` to an open file; raises as `compile`.

        In a process that did something else before, the outputs of a graph may be written in another order.
        """
        prepared = self._prepared(source, building, report)
        config, trt = prepared.config, self._trt
        config.num_compute_capabilities = len(building.capabilities)
        for index, capability in enumerate(building.capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), index)
        if not building.streamed:  # which streamed weights do not allow
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        writer = _new_writer(trt, descriptor)
        is_built = prepared.builder.build_serialized_network_to_stream(prepared.network, config, writer)
        if writer.error is not None:
            raise RecordingError("CACHE_WRITE", f"cannot write an engine: {writer.error.strerror}; free some space")
        if not is_built:
            raise self._refused("TENSORRT_BUILD", "compile", source, prepared.logger.told())


def gpus_of(building: Building) -> str:
    """Return the GPUs of a ``building``, in words."""
    return ", ".join(f"{each} ({GPUS.get(each, 'unknown')})" for each in building.capabilities)


def check_gpu(capability: str) -> None:
    """Raise `ConfigError` if TensorRT for RTX has no engines for GPUs of this compute ``capability``."""
    if capability not in GPUS:
        why = _REFUSED.get(capability, f"it knows {', '.join(GPUS)}")
        raise ConfigError(
            "RTX_GPU", f"TensorRT for RTX runs nothing on a GPU of compute capability {capability}: {why}"
        )


def capabilities_of(text: str) -> tuple[str, ...]:
    """Return the compute capabilities in ``text``, such as 8.6 and 12.0 for "86,120"; raises `ConfigError` for others."""
    found = []
    for part in text.split(","):
        digits = re.fullmatch(r"\s*(\d{1,2})\.?(\d)\s*", part)
        capability = f"{digits[1]}.{digits[2]}" if digits else part.strip()
        if capability in _REFUSED:
            raise ConfigError(
                "COMPILE_FOR", f"TensorRT for RTX makes no engine for {capability}: {_REFUSED[capability]}"
            )
        if capability not in GPUS:
            known = ", ".join(f"{each.replace('.', '')} ({told})" for each, told in GPUS.items())
            raise ConfigError("COMPILE_FOR", f"wanted --for with compute capabilities of {known}; got {part.strip()!r}")
        found.append(capability)
    return tuple(sorted(set(found), key=_number))


def check_building(building: Building, precision: str) -> None:
    """Raise `ConfigError` for options without meaning to TensorRT for RTX, or a ``precision`` not known to all GPUs."""
    if building.refit:
        raise ConfigError(
            "COMPILE_OPTION",
            "TensorRT for RTX gives no other weights to an engine that was made ahead: another LoRA is another build; leave "
            "--refit out",
        )
    for option, given, usual in (("--runs-on", building.runs_on, "here"), ("--level", building.level, 3)):
        if given != usual:
            raise ConfigError("COMPILE_OPTION", f"{option} is TensorRT's; TensorRT for RTX has --for, and no levels")
    old = [each for each in building.capabilities if _number(each) < _FP8_FROM]
    if precision == "fp8" and old:
        raise ConfigError(
            "COMPILE_FOR",
            f"wanted --for 89 or above in fp8, got {', '.join(old)}: GPUs before Ada have no such numbers; take float16 there",
        )


def _number(capability: str) -> tuple[int, int]:
    major, minor = capability.split(".")
    return int(major), int(minor)


def _new_writer(trt: Any, descriptor: int) -> Any:
    """Return a stream writer of ``trt`` to an open file; the bindings swallow an exception, so `error` keeps it."""

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: OSError | None = None

        def write(self, data: bytes) -> int:
            left = memoryview(data)
            try:
                while left:
                    left = left[os.write(descriptor, left) :]
            except OSError as error:
                self.error = error
            return len(data) - len(left)

    return Writer()
