"""Kernels that were compiled ahead of time, launched through CUDA's driver API: no torch, no Triton.

Arrays are anything with ``__cuda_array_interface__`` (pycuda's, CuPy's, torch's) or a device address; streams are their
handles.
"""

import ctypes
from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from math import prod
from typing import Any

from ..errors import BundleCorruptError, ConfigError, InternalError, ShapeError
from ..sampler import Step
from .cubins import SCALARS, KernelFacts, kernel_folder, read_kernel, target_for

ALIGNMENT = 16
BRIDGE_SIZES = ("frames", "channels", "height", "width", "to_frames", "to_height", "to_width")


def arguments(facts: KernelFacts, values: Mapping[str, Any], scratch: int = 0) -> tuple[Any, ...]:
    """Return the parameters in their order as ctypes numbers, the address of ``scratch`` memory and unused pointers last.

    Raises `InternalError` where a name is missing or unknown, `ShapeError` where an address or a size is no multiple of
    16 though the kernel was compiled for that, or a number does not fit its type.
    """
    expected = [name for name, _ in facts.arguments]
    if sorted(expected) != sorted(values):
        raise InternalError("KERNEL_ARGUMENTS", f"{facts.name}: wanted {', '.join(expected)}; got {', '.join(values)}")
    packed = [_packed(facts, name, kind, values[name]) for name, kind in facts.arguments]
    unused = [0] * facts.scratch_pointers
    return (*packed, *(ctypes.c_uint64(place) for place in [scratch, *unused][: facts.scratch_pointers]))


def _packed(facts: KernelFacts, name: str, kind: str, value: Any) -> Any:
    number = address(value) if kind.startswith("*") else value
    if name in facts.multiple_of_16 and number % ALIGNMENT:
        raise ShapeError("KERNEL_ALIGNMENT", f"{facts.name}: wanted {name} as a multiple of {ALIGNMENT}, got {number}")
    if kind.startswith("*"):
        return ctypes.c_uint64(number)  # cuda-core takes no c_void_p
    parameter = SCALARS[kind](number)
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
        self._scratch: dict[str, Any] = {}

    def facts(self, name: str) -> KernelFacts:
        """Return what is known of the kernel ``name``, loading it first."""
        return self._kernel(name)[0]

    def launch(self, name: str, grid: tuple[int, int, int], values: Mapping[str, Any], stream: int) -> None:
        """Start kernel ``name`` on the stream with this handle (0: the default one)."""
        from cuda.core import LaunchConfig, Stream, launch

        facts, kernel = self._kernel(name)
        config = LaunchConfig(grid=grid, block=facts.threads, shmem_size=facts.shared_bytes)
        on = Stream.from_handle(stream) if stream else self._device.default_stream
        place = self._scratch_of(facts, prod(grid), on) if facts.scratch_bytes else 0
        launch(on, config, kernel, *arguments(facts, values, place))

    def _scratch_of(self, facts: KernelFacts, blocks: int, stream: Any) -> int:
        """Return where a launch has its scratch memory, taken on ``stream``.

        It is kept, so that a captured launch finds what the one before the capture took; launches of one kernel have to follow
        one another.
        """
        wanted = blocks * facts.scratch_bytes
        if facts.name not in self._scratch or self._scratch[facts.name].size < wanted:
            self._scratch[facts.name] = self._device.allocate(wanted, stream=stream)
        return int(self._scratch[facts.name].handle)

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

    def bridge(  # noqa: PLR0913
        self,
        output: Any,
        latents: Any,
        scale: Any,
        shift: Any,
        noise: Any,
        signal: float,
        strength: float,
        sizes: Sequence[int],
        dtype: str,
        stream: int,
    ) -> None:
        """Fill ``output`` with the refiner's start (see `backend.Backend.bridge`).

        ``sizes`` are frames, channels, height, width of the latents, then frames, height, width of the noise; ``dtype`` is
        that of latents, noise and output, such as fp32.
        """
        name = f"bridge_{dtype}"
        arrays = {
            "latents_ptr": latents,
            "scale_ptr": scale,
            "shift_ptr": shift,
            "noise_ptr": noise,
            "output_ptr": output,
        }
        numbers = dict(zip(BRIDGE_SIZES, sizes, strict=True))
        blocks = -(-numbers["to_height"] * numbers["to_width"] // self.facts(name).constants["BLOCK"])
        grid = (blocks, numbers["to_frames"] * numbers["channels"], 1)
        self.launch(name, grid, {**arrays, "signal": signal, "strength": strength, **numbers}, stream)

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
