"""Kernels compiled ahead of time, on disk: a cubin and a JSON that states its arguments (`dvgwm.kernels.aot` writes both)."""

import ctypes
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import msgspec

from ..errors import BundleCorruptError, ConfigError

SCALARS: Mapping[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What a launcher has to know of one cubin; ``arguments`` pairs names with Triton's type names, in order.

    A block of the grid wants ``scratch_bytes`` of memory, for descriptors: the first of the ``scratch_pointers`` says where
    that of all blocks is, the others are not used.
    """

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
        """Bytes of every parameter in order, the pointers to scratch memory last."""
        own = (8 if kind.startswith("*") else ctypes.sizeof(SCALARS[kind]) for _, kind in self.arguments)
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
    return facts, cubin
