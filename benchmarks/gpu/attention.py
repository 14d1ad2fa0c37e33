"""Attention at the product's shapes: the library's, ours compiled on the spot and as a cubin, and ours with other tiles."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from dvgwm.kernels import attention, attention_8bit, attention_tma, qk_norm_rope
from dvgwm.kernels.launch import Launch

from .cubins import shipped
from .measure import Bench, ratio, relative, replayed

LIBRARIES = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
ON_A_CPU = {"flash": SDPBackend.FLASH_ATTENTION}
SHAPES = {"preview": (2, 48, 5218, 64), "preview_320x480": (2, 48, 8026, 64), "refine": (1, 30, 17776, 64)}
TRIAL = {"small": (1, 2, 200, 64)}
OPERATORS = {"kernel": attention.attention, "8bit": attention_8bit.attention_8bit, "fp8": attention_8bit.attention_8bit}
"""Ours on a CPU, as their twins."""
LAUNCHES = {
    "kernel": attention.launch_attention,
    "kernel_fixed": attention.launch_attention,
    "tma": attention_tma.launch_attention_tma,
    "tma_fixed": attention_tma.launch_attention_tma,
    "8bit": attention_8bit.launch_attention_8bit,
    "fp8": attention_8bit.launch_attention_8bit,
}
"""Every form of ours on a GPU; with "_fixed" it knows how large scores can be."""
TILES = {
    "kernel": (
        (128, 128, 8, 2), (128, 128, 8, 4), (128, 64, 4, 3), (128, 64, 8, 3), (128, 64, 8, 4),
        (64, 128, 4, 2), (64, 128, 4, 3), (64, 64, 4, 3), (64, 64, 4, 2), (64, 128, 4, 2, 168), (64, 64, 4, 3, 128),
    ),
    "kernel_fixed": ((128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 4), (64, 64, 4, 3)),
    "tma": ((128, 128, 4, 2), (128, 128, 4, 3), (128, 64, 4, 3), (128, 64, 4, 4), (64, 128, 4, 2)),
    "tma_fixed": ((128, 128, 4, 2), (128, 128, 4, 3), (128, 64, 4, 3)),
    **dict.fromkeys(
        ("8bit", "fp8"),
        tuple((128, columns, warps, stages) for columns in (64, 128) for warps in (4, 8) for stages in (2, 3, 4)),
    ),
}  # fmt: skip
"""Rows, columns, warps, stages and most registers of a block to try beside the built-in tile: small ones share a processor.

In 8 bits rows share a scale.
"""


@dataclass(frozen=True)
class Problem:
    """Attention of one shape B H S D: its tensors, also in 8 bits, and float64's result for first and last batch and head."""

    label: str
    query: Tensor
    key: Tensor
    value: Tensor

    @staticmethod
    def of(label: str, shape: tuple[int, int, int, int], device: str) -> "Problem":
        """Return a problem of random numbers, heads side by side in a token as the product has them."""
        batch, heads, length, width = shape
        tensors = (
            torch.randn(batch, length, heads, width, device=device, dtype=torch.bfloat16).transpose(1, 2)
            for _ in range(3)
        )
        return Problem(label, *tensors)

    @property
    def flop(self) -> float:
        """The work of both products."""
        batch, heads, length, width = self.query.shape
        return 4.0 * batch * heads * length**2 * width

    @property
    def scale(self) -> float:
        """The factor of scores."""
        return float(self.query.shape[-1] ** -0.5)

    @cached_property
    def bound(self) -> float:
        """The largest possible score: the scaled product of the longest query and the longest key."""
        longest = [float(part.float().norm(dim=-1).max()) for part in (self.query, self.key)]
        return self.scale * longest[0] * longest[1]

    def ends(self, tensor: Tensor, heads: int = 1) -> Tensor:
        """Return the first and last batch and head of a tensor with heads on axis ``heads``: wrong strides show there."""
        picked = tensor[:: max(1, tensor.shape[0] - 1)]
        return picked.index_select(heads, torch.tensor([0, tensor.shape[heads] - 1], device=tensor.device))

    @cached_property
    def exact(self) -> Tensor:
        """float64's result for these."""
        query, key, value = (self.ends(part).double() for part in (self.query, self.key, self.value))
        return scaled_dot_product_attention(query, key, value).transpose(1, 2)

    @cached_property
    def scores_8bit(self) -> tuple[Tensor, ...]:
        """Queries and keys as integers with their scales."""
        parts = (qk_norm_rope.quantise_blocks(part.float()) for part in (self.query, self.key))
        return tuple(tensor for part in parts for tensor in part)

    @cached_property
    def all_fp8(self) -> tuple[Tensor, ...]:
        """Queries, keys and values in FP8 with their scales."""
        parts = (qk_norm_rope.quantise_blocks_fp8(part.float()) for part in (self.query, self.key))
        return (*(tensor for part in parts for tensor in part), *qk_norm_rope.quantise_values(self.value))

    def arguments(self, kind: str) -> tuple[Any, ...]:
        """Return the arguments of our kernel of this kind."""
        if kind == "8bit":
            return *self.scores_8bit, self.value, None, self.scale
        if kind == "fp8":
            return *self.all_fp8, self.scale
        return self.query, self.key, self.value, self.scale, self.bound if kind.endswith("_fixed") else None


def run_attention(bench: Bench) -> None:
    """Attention at the product's shapes: the library's backends, ours in 16 and 8 bits, ours as a cubin."""
    for label, shape in (TRIAL if bench.small else SHAPES).items():
        problem = Problem.of(label, shape, bench.device)
        title = f"attention {label}"
        variants = works(problem, bench)
        for variant in bench.wanted(title, variants):
            with bench.trying(title, variant):
                work = variants[variant]
                error = relative(problem.ends(work(), 2), problem.exact)
                found = replayed(work, bench.rounds, bench.device)
                library = bench.median(title, "flash" if bench.small else "cudnn")
                bench.row(
                    title, variant=variant, shape=list(shape), **found, rate=problem.flop / found["median_s"],
                    against_library=ratio(library or found["median_s"], found["median_s"]), relative_l2=error,
                    loss="lossless" if variant in LIBRARIES else "bounded",
                )  # fmt: skip
        if not bench.small:  # tiles are the compiler's business
            for kind in forms(bench):
                tune(bench, problem, kind)


def works(problem: Problem, bench: Bench) -> dict[str, Callable[[], Tensor]]:
    """Return every form of attention by name, the library's first."""

    def library(backend: SDPBackend) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(problem.query, problem.key, problem.value).transpose(1, 2)

    made: dict[str, Callable[[], Tensor]] = {
        name: partial(library, backend) for name, backend in (ON_A_CPU if bench.small else LIBRARIES).items()
    }
    for kind in forms(bench):
        made[kind] = partial(form, problem, kind)
        if not bench.small:
            made[f"{kind} cubin"] = cubin(problem, kind, bench.device)
    return made


def forms(bench: Bench) -> tuple[str, ...]:
    """Return the forms of ours for this device."""
    if bench.small:
        return tuple(kind for kind in OPERATORS if kind != "fp8" or bench.has_fp8)
    has_tma = torch.cuda.get_device_capability() == (9, 0)
    lacking = {"tma": not has_tma, "tma_fixed": not has_tma, "fp8": not bench.has_fp8}
    return tuple(kind for kind in LAUNCHES if not lacking.get(kind, False))


def form(problem: Problem, kind: str) -> Tensor:
    """Return attention by one of our forms, compiled on the spot; on a CPU by its operator."""
    arguments = problem.arguments(kind)
    if not problem.query.is_cuda:
        return OPERATORS[kind](*arguments)
    launch, written = LAUNCHES[kind](*arguments)
    launch.start()
    return written


def cubin(problem: Problem, kind: str, device: str) -> Callable[[], Tensor]:
    """Return our kernel as it is shipped."""

    @cache
    def prepared() -> tuple[Callable[[], None], Tensor]:
        return shipped(LAUNCHES[kind], problem.arguments(kind), device)

    def work() -> Tensor:
        run, written = prepared()
        run()
        return written

    return work


def tune(bench: Bench, problem: Problem, kind: str) -> None:
    """Time other tiles of one of our kernels: the best of them belongs into its `tile`."""
    title = f"attention {problem.label} {kind} tile"
    named = {"x".join(map(str, tile)): tile for tile in TILES[kind]}
    for variant in bench.wanted(title, named):
        with bench.trying(title, variant):
            launch, written = LAUNCHES[kind](*problem.arguments(kind))
            tiled = with_tile(launch, named[variant])
            tiled.start()
            error = relative(problem.ends(written, 2), problem.exact)
            found = replayed(tiled.start, bench.rounds, bench.device)
            rate = problem.flop / found["median_s"]
            bench.row(title, variant=variant, **found, rate=rate, relative_l2=error, loss="bounded")


def with_tile(launch: Launch, tile: tuple[int, ...]) -> Launch:
    """Return ``launch`` with other rows, columns, warps, stages and, if told, most registers of a block."""
    rows, columns, warps, stages, registers = (*tile, None)[:5]
    queries = launch.constants["BLOCK_M"] * launch.grid[0]
    constants = {**launch.constants, "BLOCK_M": rows, "BLOCK_N": columns}
    grid = -(-queries // rows), *launch.grid[1:]
    return replace(launch, grid=grid, constants=constants, warps=warps, stages=stages, registers=registers)
