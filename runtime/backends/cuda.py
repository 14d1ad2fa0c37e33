"""Kernels that were compiled ahead of time, launched through CUDA's driver API: no torch, no Triton.

A kernel is a cubin and a JSON that states its arguments (`dvgwm.kernels.aot` writes both). Arrays are anything with
``__cuda_array_interface__`` (pycuda's, CuPy's, torch's) or a device address; streams are their handles.
"""

import ctypes
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import msgspec

from ..errors import BundleCorruptError, ConfigError, InternalError, ShapeError
from ..sampler import Step

ALIGNMENT = 16
_SCALARS: Mapping[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What a launcher has to know of one cubin; ``arguments`` pairs names with Triton's type names, in order."""

    name: str
    function: str
    architecture: int
    arguments: tuple[tuple[str, str], ...]
    scratch_pointers: int
    multiple_of_16: frozenset[str]
    constants: Mapping[str, Any]
    threads: int
    shared_bytes: int
    sha256: str
    scratch_bytes: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of every parameter in order, the unused scratch pointers last."""
        own = (8 if kind.startswith("*") else ctypes.sizeof(_SCALARS[kind]) for _, kind in self.arguments)
        return (*own, *(8,) * self.scratch_pointers)


def kernel_folder() -> Traversable:
    """Return where this installation's cubins are."""
    return resources.files("dvgwm.runtime") / "cubins"


def targets(folder: Traversable) -> tuple[int, ...]:
    """Return the GPU architectures that cubins in ``folder`` were built for."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(int(entry.name[3:]) for entry in folder.iterdir() if entry.name.startswith("sm_")))


def target_for(capability: tuple[int, int], folder: Traversable) -> int:
    """Return the architecture whose cubins run on a GPU of ``capability``; raises `ConfigError` where none does.

    A cubin runs on its own architecture and on later ones of the same major version.
    """
    expected = 10 * capability[0] + capability[1]
    fitting = [have for have in targets(folder) if have // 10 == capability[0] and have <= expected]
    if not fitting:
        have = ", ".join(map(str, targets(folder))) or "none"
        raise ConfigError(
            "KERNELS_MISSING",
            f"wanted kernels for sm_{expected}, {folder} has {have}; build them with "
            f"`python -m dvgwm.kernels.aot --arch {expected} --out {folder}`",
        )
    return max(fitting)


def read_kernel(name: str, architecture: int, folder: Traversable) -> tuple[KernelFacts, bytes]:
    """Return the facts and the cubin; raises `ConfigError` for a missing, `BundleCorruptError` for a damaged one."""
    place = folder / f"sm_{architecture}"
    try:
        text = (place / f"{name}.json").read_text("utf-8")
        cubin = (place / f"{name}.cubin").read_bytes()
    except OSError as error:
        raise ConfigError("KERNELS_MISSING", f"no kernel {name} for sm_{architecture} in {folder}: {error}") from error
    try:
        facts = msgspec.json.decode(text, type=KernelFacts)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError("KERNEL_FACTS", f"{name}.json for sm_{architecture} is damaged: {error}") from error
    if hashlib.sha256(cubin).hexdigest() != facts.sha256:
        raise BundleCorruptError(
            "KERNEL_HASH", f"{name}.cubin for sm_{architecture} is not what its JSON says; rebuild it"
        )
    if facts.scratch_bytes:
        raise InternalError("KERNEL_SCRATCH", f"{name} wants {facts.scratch_bytes} bytes of scratch memory")
    return facts, cubin


def arguments(facts: KernelFacts, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the parameters in their order as ctypes numbers, the unused scratch pointers last.

    Raises `InternalError` where a name is missing or unknown, `ShapeError` where an address or a size is no multiple of
    16 though the kernel was compiled for that, or a number does not fit its type.
    """
    expected = [name for name, _ in facts.arguments]
    if sorted(expected) != sorted(values):
        raise InternalError("KERNEL_ARGUMENTS", f"{facts.name}: wanted {', '.join(expected)}; got {', '.join(values)}")
    packed = [_packed(facts, name, kind, values[name]) for name, kind in facts.arguments]
    return (*packed, *(ctypes.c_uint64(0) for _ in range(facts.scratch_pointers)))


def _packed(facts: KernelFacts, name: str, kind: str, value: Any) -> Any:
    number = address(value) if kind.startswith("*") else value
    if name in facts.multiple_of_16 and number % ALIGNMENT:
        raise ShapeError("KERNEL_ALIGNMENT", f"{facts.name}: wanted {name} as a multiple of {ALIGNMENT}, got {number}")
    if kind.startswith("*"):
        return ctypes.c_uint64(number)  # cuda-core takes no c_void_p
    parameter = _SCALARS[kind](number)
    if kind != "fp32" and parameter.value != number:
        raise ShapeError("KERNEL_NUMBER", f"{facts.name}: {name} = {number} does not fit {kind}")
    return parameter


def address(array: Any) -> int:
    """Return the device address of ``array``: an address already, or ``__cuda_array_interface__``."""
    if isinstance(array, int):
        return array
    return int(array.__cuda_array_interface__["data"][0])


class CudaKernels:
    """The ahead-of-time kernels loaded on one GPU; raises `ConfigError` without cuda-core, a GPU or fitting cubins."""

    def __init__(self, device: int = 0, folder: Traversable | None = None) -> None:
        try:
            from cuda.core import Device
        except ImportError as error:
            raise ConfigError(
                "CUDA_CORE", f"wanted cuda-core to launch kernels, found none ({error}); pip install 'dvgwm[cuda]'"
            ) from error
        try:
            self._device = Device(device)
            self._device.set_current()
        except Exception as error:  # the driver's absence and its errors have no common base
            raise ConfigError("CUDA_DEVICE", f"wanted GPU {device}, cannot open it: {error}") from error
        self._folder = folder or kernel_folder()
        capability = self._device.compute_capability
        self.architecture = target_for((capability.major, capability.minor), self._folder)
        self._loaded: dict[str, tuple[KernelFacts, Any]] = {}

    def facts(self, name: str) -> KernelFacts:
        """Return what is known of the kernel ``name``, loading it first."""
        return self._kernel(name)[0]

    def launch(self, name: str, grid: tuple[int, int, int], values: Mapping[str, Any], stream: int) -> None:
        """Start kernel ``name`` on the stream with this handle (0: the default one)."""
        from cuda.core import LaunchConfig, Stream, launch

        facts, kernel = self._kernel(name)
        config = LaunchConfig(grid=grid, block=facts.threads, shmem_size=facts.shared_bytes)
        on = Stream.from_handle(stream) if stream else self._device.default_stream
        launch(on, config, kernel, *arguments(facts, values))

    def affine_step(  # noqa: PLR0913
        self,
        step: Step,
        state: Any,
        velocity: Any,
        history: Any | None,
        noise: Any | None,
        count: int,
        branches: int,
        dtypes: tuple[str, str],
        stream: int,
    ) -> None:
        """Advance ``count`` numbers of ``state`` and ``history`` in place (see `sampler.advance`).

        ``dtypes`` are the state's and the velocity's, such as fp32 and fp16; history and noise are float32.
        """
        name = f"affine_step_{dtypes[0]}_{dtypes[1]}"
        values = affine_step_values(step, state, velocity, history, noise, count, branches)
        block = self.facts(name).constants["BLOCK"]
        self.launch(name, (-(-count // block), 1, 1), values, stream)

    def _kernel(self, name: str) -> tuple[KernelFacts, Any]:
        if name not in self._loaded:
            facts, cubin = read_kernel(name, self.architecture, self._folder)
            self._loaded[name] = facts, self._load(facts, cubin)
        return self._loaded[name]

    def _load(self, facts: KernelFacts, cubin: bytes) -> Any:
        from cuda.bindings import driver
        from cuda.core import ObjectCode

        kernel = ObjectCode.from_cubin(cubin).get_kernel(facts.function)
        found = tuple(info.size for info in kernel.arguments_info)
        if found != facts.sizes:
            raise BundleCorruptError(
                "KERNEL_SIGNATURE", f"{facts.name}: wanted parameters {facts.sizes}, found {found}"
            )
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        (status,) = driver.cuKernelSetAttribute(
            most, facts.shared_bytes, driver.CUkernel(int(kernel.handle)), self._device.device_id
        )
        if status != driver.CUresult.CUDA_SUCCESS:
            raise ConfigError("KERNEL_SHARED", f"{facts.name}: {facts.shared_bytes} bytes of shared memory: {status}")
        return kernel


def affine_step_values(
    step: Step, state: Any, velocity: Any, history: Any | None, noise: Any | None, count: int, branches: int
) -> dict[str, Any]:
    """Return the arguments of one sampler row; ``branches`` is 2 with guidance, whose unconditional half comes first."""
    numbers = zip(("a", "b", "c", "d", "p", "q", "guidance", "limit", "a0", "b0"), step.coefficients(), strict=True)
    flags = (1 if branches == 2 else 0) | (0 if history is None else 2) | (0 if noise is None else 4)
    return {
        "state_ptr": state,
        "velocity_ptr": velocity,
        "history_ptr": state if history is None else history,
        "noise_ptr": state if noise is None else noise,
        "count": count,
        "flags": flags,
        **dict(numbers),
    }
