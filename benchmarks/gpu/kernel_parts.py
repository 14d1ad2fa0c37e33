"""Ceilings of the machine, then every kernel but attention: compiled on the spot, as a cubin, and what it would replace."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from measure import Bench, alternate, ceilings, replayed, usable

from dvgwm.kernels import affine_step, bridge, modulate, qk_norm_rope, quantise, spatial_norm
from dvgwm.kernels.aot import variants
from dvgwm.kernels.launch import Launch
from dvgwm.runtime.backends.cuda import CudaKernels
from dvgwm.runtime.errors import ConfigError


def small(bench: Bench) -> bool:
    """Return whether this is a trial on a machine without a GPU: sizes shrink, the code is the same."""
    return bench.device != "cuda"


def run_ceilings(bench: Bench) -> None:
    """What this machine can do at most: copies and matrix products through the vendor's library."""
    count = 1 << (20 if small(bench) else 30)
    source = torch.randn(count // 4, device=bench.device)
    target = torch.empty_like(source)
    median, _ = alternate({"copy": lambda: target.copy_(source)}, bench.rounds, bench.device)["copy"]
    bench.row("copy", kind="bytes", bytes=2 * source.nbytes, median_s=median, rate=2 * source.nbytes / median)
    sizes = [(10436, 9216, 3072), (10436, 12288, 3072), (10436, 3072, 12288), (17776, 7680, 1920), (8192, 8192, 8192)]
    for m, n, k in [(64, 64, 64)] if small(bench) else sizes:
        a, b = (torch.randn(s, device=bench.device, dtype=torch.bfloat16) for s in ((m, k), (n, k)))
        works: dict[str, Callable[[], object]] = {"bf16": lambda a=a, b=b: a @ b.t()}
        if not small(bench) and torch.cuda.get_device_capability() >= (8, 9):
            a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
            rows = torch.ones(m, 1, device="cuda"), torch.ones(1, n, device="cuda")
            works["fp8"] = lambda a=a8, b=b8, r=rows: torch._scaled_mm(
                a, b.t(), *r, out_dtype=torch.bfloat16, use_fast_accum=True
            )
        for kind, (median, slowest) in alternate(works, bench.rounds, bench.device).items():
            rate = 2 * m * n * k / median
            bench.row("matrix product", kind=kind, shape=[m, n, k], median_s=median, max_s=slowest, rate=rate)


def launcher(bench: Bench) -> CudaKernels | None:
    """Return the shipped cubins, or nothing where there are none for this machine (said in a row)."""
    try:
        return CudaKernels() if bench.device == "cuda" else None
    except ConfigError as error:
        bench.row("cubins", missing=str(error))
        return None


def shipped(cubins: CudaKernels, launches: Launch | tuple[Launch, ...], result: Any = None) -> Callable[[], Any]:
    """Return what starts ``launches`` from the shipped cubins and gives ``result``, written anew each time."""
    launches = (launches,) if isinstance(launches, Launch) else launches
    calls = [launch.shipped(variants(cubins.architecture)) for launch in launches]

    def run(held: tuple[Launch, ...] = launches) -> Any:  # the launches hold the tensors whose addresses were taken
        stream = torch.cuda.current_stream().cuda_stream  # a graph's own while it is captured
        for name, grid, arguments in calls:
            cubins.launch(name, grid, arguments, stream)
        return result

    return run


def run_kernels(bench: Bench) -> None:
    """The one-pass kernels against the same arithmetic in eager torch and in torch.compile, and as cubins."""
    cubins = launcher(bench)
    affine(bench, cubins)
    tokens(bench, cubins)
    latents = torch.randn(1, 13, 16, 32, 48, device=bench.device)
    noise = torch.randn(1, 13, 16, 60, 90, device=bench.device)
    ones, zeros = torch.ones(16, device=bench.device), torch.zeros(16, device=bench.device)
    moved = latents.nbytes + 2 * noise.nbytes
    compare(bench, cubins, bridge, "bridge", (latents, ones, zeros, noise, 0.8, 0.6), moved)
    size = (16, 24) if small(bench) else (480, 720)
    video = torch.randn(1, 128, 8, *size, device=bench.device, dtype=torch.bfloat16)
    video = video.contiguous(memory_format=torch.channels_last_3d)
    maps = [torch.randn(1, 128, 2, size[0] // 8, size[1] // 8, device=bench.device).bfloat16() for _ in range(2)]
    maps = [values.contiguous(memory_format=torch.channels_last_3d) for values in maps]
    past = video[:, :, :2].clone(memory_format=torch.channels_last_3d)
    weights = [torch.randn(128, device=bench.device).bfloat16() for _ in range(2)]
    # The video once for its statistics and once more to be normalised; the result, two frames longer, once.
    moved = (
        3 * video.nbytes
        + sum(values.nbytes for values in maps)
        + past.nbytes
        + spatial_norm.PAD * video[:, :, :1].nbytes
    )
    compare(bench, cubins, spatial_norm, "spatial_norm", (video, *weights, *maps, past, 32, 1e-6), moved)


def affine(bench: Bench, cubins: CudaKernels | None) -> None:
    """The sampler's step at product size, where launching is all, and at 256 MB and more, where memory is."""
    numbers = (0.9, -0.3, 0.0, 0.0, 0.0, 0.0, 6.0, math.inf, 1.0, 0.0)
    for label, count in (("product", 13 * 16 * 32 * 48), ("256 MB", 1 << (16 if small(bench) else 26))):
        state, velocity = torch.randn(1, count, device=bench.device), torch.randn(2, count, device=bench.device)
        moved = 2 * state.nbytes + velocity.nbytes
        compare(bench, cubins, affine_step, "affine_step", (state, velocity, None, None, numbers), moved, label)


def tokens(bench: Bench, cubins: CudaKernels | None) -> None:
    """The kernels that replace a transformer layer's small operators, at the preview's size."""
    batch, length, heads, text_length = (1, 100, 2, 20) if small(bench) else (2, 5218, 48, 226)
    width = heads * 64
    qkv = torch.randn(batch, length, 3 * width, device=bench.device, dtype=torch.bfloat16)
    norms = [torch.randn(64, device=bench.device, dtype=torch.bfloat16) for _ in range(4)]
    angles = torch.randn(length - text_length, 32, device=bench.device)
    rotary = angles.cos(), angles.sin()
    moved = qkv.nbytes * 4 // 3
    compare(bench, cubins, qk_norm_rope, "qk_norm_rope", (qkv, *norms, *rotary, None, heads, 1e-6), moved)
    centre = torch.zeros(batch, heads, 64, device=bench.device)
    moved = qkv.nbytes * 2 // 3 + qkv.nbytes // 3
    compare(bench, cubins, qk_norm_rope, "qk_norm_rope", (qkv, *norms, *rotary, centre, heads, 1e-6), moved, "8bit")
    x, y = (torch.randn(batch, length, width, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    modulations = [torch.randn(2, 3, width, device=bench.device, dtype=torch.bfloat16) for _ in range(2)]
    norm = [torch.randn(width, device=bench.device, dtype=torch.bfloat16) for _ in range(2)]
    arguments = (x, y, *modulations, *norm, text_length, 1e-5)
    compare(bench, cubins, modulate, "modulate", (*arguments, False), 4 * x.nbytes)
    compare(bench, cubins, modulate, "modulate", (*arguments, True), 3 * x.nbytes + x.nbytes // 2, "fp8")
    raised = torch.randn(batch, length, 4 * width, device=bench.device, dtype=torch.bfloat16)
    compare(bench, cubins, quantise, "quantise", (raised, True), raised.nbytes * 3 // 2, "fp8")


def compare(
    bench: Bench,
    cubins: CudaKernels | None,
    module: ModuleType,
    name: str,
    arguments: tuple[Any, ...],
    moved: int,
    label: str = "",
) -> None:
    """Record our kernel compiled on the spot and as shipped, beside its twin, eager and compiled."""
    ours, launch, plain = (getattr(module, prefix + name) for prefix in ("", "launch_", "plain_"))
    works: dict[str, Callable[[], Any]] = {"kernel": lambda: ours(*arguments), "eager": lambda: plain(*arguments)}
    if not small(bench):
        compiled = torch.compile(plain, dynamic=False)
        works["compile"] = lambda: compiled(*arguments)
    if cubins is not None and (cubins.architecture >= 89 or label != "fp8"):
        launched = launch(*arguments)
        works["cubin"] = shipped(cubins, *(launched if isinstance(launched, tuple) else (launched,)))
    rate = ceilings(bench.file, bench.facts["gpu"]).get("bytes", math.nan)
    title = f"{name} {label}".strip()
    works = {variant: works[variant] for variant in usable(bench, title, works)[0]}
    for variant, (median, slowest) in replayed(works, bench.rounds, bench.device).items():
        bench.row(
            title, variant=variant, median_s=median, max_s=slowest, bytes=moved,
            share_of_copy=moved / median / rate, loss="bounded" if label in ("8bit", "fp8") else "lossless",
        )  # fmt: skip
