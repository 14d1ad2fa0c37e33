"""The kernels that ship, launched through the driver: compiled here first where they are not there yet."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from dvgwm.kernels.aot import variants
from dvgwm.kernels.launch import Launch

from .code import ROOT


@cache
def launcher(device: str) -> Any:
    """Return what launches the shipped cubins, None on a machine without a GPU."""
    if device != "cuda":
        return None
    from dvgwm.runtime.backends.cuda import CudaKernels
    from dvgwm.runtime.errors import ConfigError

    try:
        return CudaKernels()
    except ConfigError:
        major, minor = torch.cuda.get_device_capability()
        command = [sys.executable, "-m", "dvgwm.kernels.aot", "--arch", f"{major}{minor}"]
        subprocess.run([*command, "--out", str(ROOT / "runtime" / "cubins")], check=True, env=dict(os.environ))
        return CudaKernels()


def shipped(launch: Callable[..., Any], arguments: tuple[Any, ...], device: str) -> tuple[Callable[[], None], Any]:
    """Return what starts the launches that ``launch`` tells for ``arguments`` from the shipped cubins, and what they write."""
    cubins = launcher(device)
    told = launch(*arguments)
    launches, written = (told, None) if isinstance(told, Launch) else told
    held = (launches,) if isinstance(launches, Launch) else launches
    calls = [each.shipped(variants(cubins.architecture)) for each in held]

    def run(held: tuple[Launch, ...] = held) -> None:  # the launches hold the tensors whose addresses were taken
        stream = torch.cuda.current_stream().cuda_stream  # a graph's own while it is captured
        for name, grid, values in calls:
            cubins.launch(name, grid, values, stream)

    return run, written
