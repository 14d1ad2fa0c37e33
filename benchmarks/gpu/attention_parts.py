"""Attention at the product's shapes: the library's, ours compiled on the spot and as a cubin, and ours with other tiles."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from kernel_parts import launcher, shipped, small
from measure import Bench, relative, replayed, usable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from dvgwm.kernels import attention, attention_8bit, qk_norm_rope
from dvgwm.kernels.launch import Launch

LIBRARIES = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
SHAPES = {"preview": (2, 48, 5218, 64), "preview_320x480": (2, 48, 8026, 64), "refine": (1, 30, 17776, 64)}
TILES = (
    (128, 128, 8, 2), (128, 128, 8, 4), (128, 64, 4, 3), (128, 64, 8, 3), (128, 64, 8, 4),
    (64, 128, 4, 2), (64, 128, 4, 3), (64, 64, 4, 3), (64, 64, 4, 2),
)  # fmt: skip
"""Rows, columns, warps and stages to try beside the built-in tile."""
TILES_8BIT = tuple((128, columns, warps, stages) for columns in (64, 128) for warps in (4, 8) for stages in (2, 3, 4))
"""The same in 8 bits, where rows are those that share a scale."""


def run_attention(bench: Bench) -> None:
    """Attention at the product's shapes: the library's backends, ours in 16 and 8 bits, ours as a cubin."""
    cubins = launcher(bench)
    for label, shape in {"small": (1, 2, 200, 64)}.items() if small(bench) else SHAPES.items():
        batch, heads, length, width = shape
        query, key, value = (
            torch.randn(batch, length, heads, width, device=bench.device, dtype=torch.bfloat16).transpose(1, 2)
            for _ in range(3)
        )
        scale = width**-0.5
        works: dict[str, Callable[[], torch.Tensor]] = {}
        for name, backend in LIBRARIES.items():

            def library(backend: SDPBackend = backend) -> torch.Tensor:
                with sdpa_kernel(backend):
                    return scaled_dot_product_attention(query, key, value).transpose(1, 2)

            works[name] = library
        if small(bench):
            works = {"library": lambda: scaled_dot_product_attention(query, key, value).transpose(1, 2)}
        works["kernel"] = lambda: attention.attention(query, key, value, scale)
        parts = (*qk_norm_rope.quantise_blocks(query.float()), *qk_norm_rope.quantise_blocks(key.float()))
        works["8bit"] = lambda: attention_8bit.attention_8bit(*parts, value, None, scale)
        if small(bench) or torch.cuda.get_device_capability() >= (8, 9):
            values = attention_8bit.quantise_values(value)
            works["fp8"] = lambda: attention_8bit.attention_8bit(*parts, *values, scale)
        if cubins is not None:
            works["cubin"] = shipped(cubins, *attention.launch_attention(query, key, value, scale))
            works["8bit cubin"] = shipped(cubins, *attention_8bit.launch_attention_8bit(*parts, value, None, scale))
        ends = [part[:: max(1, batch - 1), :: heads - 1] for part in (query, key, value)]
        exact = scaled_dot_product_attention(*(part.double() for part in ends)).transpose(1, 2)
        flop = 4 * batch * heads * length**2 * width
        report(bench, f"attention {label}", works, exact, flop, list(shape))
        if small(bench):
            continue
        tune(bench, label, attention.launch_attention(query, key, value, scale)[0], flop, TILES)
        launch = attention_8bit.launch_attention_8bit(*parts, value, None, scale)[0]
        tune(bench, f"{label} 8bit", launch, flop, TILES_8BIT)
        if "fp8" in works:
            launch = attention_8bit.launch_attention_8bit(*parts, *values, scale)[0]
            tune(bench, f"{label} fp8", launch, flop, TILES_8BIT)


def report(
    bench: Bench,
    name: str,
    works: dict[str, Callable[[], torch.Tensor]],
    exact: torch.Tensor,
    flop: float,
    shape: list[int],
) -> None:
    """Record every variant that runs, its error against float64 on the first and last batch and head, and its rate."""
    _, results = usable(bench, name, works)
    batch, heads = shape[:2]
    ends = slice(None, None, max(1, batch - 1)), slice(None), slice(None, None, heads - 1)
    ready = {variant: relative(result[ends], exact) for variant, result in results.items()}
    times = replayed({variant: works[variant] for variant in ready}, bench.rounds, bench.device)
    base = times.get("cudnn", (math.nan, 0.0))[0]
    for variant, (median, slowest) in times.items():
        loss = "lossless" if variant in LIBRARIES else "bounded"
        bench.row(
            name, variant=variant, shape=shape, median_s=median, max_s=slowest, rate=flop / median,
            against_cudnn=base / median, relative_l2=ready[variant], loss=loss,
        )  # fmt: skip


def tune(bench: Bench, label: str, launch: Launch, flop: float, tiles: Sequence[tuple[int, int, int, int]]) -> None:
    """Time other tiles of one of our kernels: the best of them is what its `tile` ought to say."""
    queries = launch.constants["BLOCK_M"] * launch.grid[0]
    for block_m, block_n, warps, stages in tiles:
        constants = {**launch.constants, "BLOCK_M": block_m, "BLOCK_N": block_n}
        grid = -(-queries // block_m), *launch.grid[1:]
        tiled = replace(launch, grid=grid, constants=constants, warps=warps, stages=stages)
        tile = [block_m, block_n, warps, stages]
        try:
            tiled.start()
            median, slowest = replayed({"tile": tiled.start}, bench.rounds, bench.device)["tile"]
        except Exception as error:  # Triton's errors have no common base; a tile may not fit
            bench.row(f"attention {label} tile", tile=tile, refused=str(error)[:80])
            continue
        bench.row(f"attention {label} tile", tile=tile, median_s=median, max_s=slowest, rate=flop / median)
