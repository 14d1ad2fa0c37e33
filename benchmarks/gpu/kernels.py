"""Ceilings of the machine, then every kernel but attention: compiled on the spot, as a cubin, and what it would replace."""

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dvgwm.kernels import affine_step, bridge, modulate, qk_norm_rope, quantise, spatial_norm

from .cubins import shipped
from .measure import Bench, ratio, relative, replayed


def run_ceilings(bench: Bench) -> None:
    """What this machine can do at most: copies and matrix products through the vendor's library."""
    count = 1 << (20 if bench.small else 30)
    source = torch.randn(count // 4, device=bench.device)
    target = torch.empty_like(source)
    moved = 2 * source.nbytes
    for variant in bench.wanted("copy", ["torch"]):
        with bench.trying("copy", variant):
            found = replayed(lambda: target.copy_(source), bench.rounds, bench.device)
            bench.row("copy", variant=variant, kind="bytes", bytes=moved, **found, rate=moved / found["median_s"])
    sizes = [(10436, 9216, 3072), (10436, 12288, 3072), (10436, 3072, 12288), (17776, 7680, 1920), (8192, 8192, 8192)]
    for m, n, k in [(64, 64, 64)] if bench.small else sizes:
        for kind in bench.wanted(f"matrix product {m} {n} {k}", ("bf16", "fp8") if bench.has_fp8 else ("bf16",)):
            with bench.trying(f"matrix product {m} {n} {k}", kind):
                found = replayed(product(bench, kind, m, n, k), bench.rounds, bench.device)
                rate = 2 * m * n * k / found["median_s"]
                bench.row(f"matrix product {m} {n} {k}", variant=kind, kind=kind, **found, rate=rate)


def product(bench: Bench, kind: str, m: int, n: int, k: int) -> Callable[[], Tensor]:
    """Return a matrix product of these sizes in bf16 or FP8 that has run once."""
    a, b = (torch.randn(s, device=bench.device, dtype=torch.bfloat16) for s in ((m, k), (n, k)))
    if kind == "bf16":
        return lambda: a @ b.t()
    a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
    rows = torch.ones(m, 1, device=bench.device), torch.ones(1, n, device=bench.device)
    return lambda: torch._scaled_mm(a8, b8.t(), *rows, out_dtype=torch.bfloat16, use_fast_accum=True)


def run_kernels(bench: Bench) -> None:
    """The one-pass kernels against the same arithmetic in eager torch and in torch.compile, and as cubins."""
    affine(bench)
    tokens(bench)
    latents = torch.randn(1, 13, 16, 32, 48, device=bench.device)
    noise = torch.randn(1, 13, 16, 60, 90, device=bench.device)
    ones, zeros = torch.ones(16, device=bench.device), torch.zeros(16, device=bench.device)
    moved = latents.nbytes + 2 * noise.nbytes
    compare(bench, bridge, "bridge", (latents, ones, zeros, noise, 0.8, 0.6), moved)
    size = (16, 24) if bench.small else (480, 720)
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
    compare(bench, spatial_norm, "spatial_norm", (video, *weights, *maps, past, 32, 1e-6), moved)


def affine(bench: Bench) -> None:
    """The sampler's step at product size, where launching is all, and at 256 MB and more, where memory is."""
    numbers = (0.9, -0.3, 0.0, 0.0, 0.0, 0.0, 6.0, math.inf, 1.0, 0.0)
    for label, count in (("product", 13 * 16 * 32 * 48), ("256 MB", 1 << (16 if bench.small else 26))):
        state, velocity = torch.randn(1, count, device=bench.device), torch.randn(2, count, device=bench.device)
        moved = 2 * state.nbytes + velocity.nbytes
        compare(bench, affine_step, "affine_step", (state, velocity, None, None, numbers), moved, label)


def tokens(bench: Bench) -> None:
    """The kernels that replace a transformer layer's small operators, at the preview's size."""
    batch, length, heads, text_length = (1, 100, 2, 20) if bench.small else (2, 5218, 48, 226)
    width = heads * 64
    qkv = torch.randn(batch, length, 3 * width, device=bench.device, dtype=torch.bfloat16)
    norms = [torch.randn(64, device=bench.device, dtype=torch.bfloat16) for _ in range(4)]
    angles = torch.randn(length - text_length, 32, device=bench.device)
    rotary = angles.cos(), angles.sin()
    moved = qkv.nbytes * 4 // 3
    compare(bench, qk_norm_rope, "qk_norm_rope", (qkv, *norms, *rotary, None, heads, 1e-6), moved)
    centre = torch.zeros(batch, heads, 64, device=bench.device)
    moved = qkv.nbytes * 2 // 3 + qkv.nbytes // 3
    compare(bench, qk_norm_rope, "qk_norm_rope", (qkv, *norms, *rotary, centre, heads, 1e-6), moved, "8bit")
    moved = qkv.nbytes * 3 // 2
    compare(bench, qk_norm_rope, "qk_norm_rope_fp8", (qkv, *norms, *rotary, centre, heads, 1e-6), moved, "fp8")
    x, y = (torch.randn(batch, length, width, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    modulations = [torch.randn(2, 3, width, device=bench.device, dtype=torch.bfloat16) for _ in range(2)]
    norm = [torch.randn(width, device=bench.device, dtype=torch.bfloat16) for _ in range(2)]
    arguments = (x, y, *modulations, *norm, text_length, 1e-5)
    compare(bench, modulate, "modulate", (*arguments, False), 4 * x.nbytes)
    compare(bench, modulate, "modulate", (*arguments, True), 3 * x.nbytes + x.nbytes // 2, "fp8")
    raised = torch.randn(batch, length, 4 * width, device=bench.device, dtype=torch.bfloat16)
    compare(bench, quantise, "quantise", (raised, True), raised.nbytes * 3 // 2, "fp8")


def compare(
    bench: Bench, module: ModuleType, name: str, arguments: tuple[Any, ...], moved: int, label: str = ""
) -> None:
    """Record our kernel beside its twin, eager and compiled, and as it is shipped: time, and distance from the twin."""
    if label == "fp8" and not bench.has_fp8:
        return
    ours, launch, plain = (getattr(module, prefix + name) for prefix in ("", "launch_", "plain_"))
    title = f"{name} {label}".strip()
    expected = outcome(plain, arguments)
    works = {"eager": plain, "compile": torch.compile(plain, dynamic=False), "kernel": ours}
    if not bench.small:

        def cubin(*given: Any) -> Any:
            run, written = shipped(launch, given, bench.device)
            run()
            return written

        works["cubin"] = cubin
    for variant in bench.wanted(title, works):
        with bench.trying(title, variant):
            error = distance(outcome(works[variant], arguments), expected)
            given = copied(arguments)  # what is timed may change them
            run = partial(works[variant], *given)
            if variant == "cubin":
                run, _ = shipped(launch, given, bench.device)
            found = replayed(run, bench.rounds, bench.device)
            eager = found["median_s"] if variant == "eager" else bench.median(title, "eager")
            bench.row(
                title, variant=variant, **found, bytes=moved, against_eager=ratio(eager, found["median_s"]),
                share_of_copy=ratio(moved / found["median_s"], bench.ceilings().get("bytes")),
                relative_l2=error, loss="bounded" if label in ("8bit", "fp8") else "lossless",
            )  # fmt: skip


def copied(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments, of tensors copies with their strides."""
    return tuple(part.clone() if isinstance(part, Tensor) else part for part in arguments)


def outcome(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Return what ``work`` gives for copies of the arguments, or what it does to the first of them."""
    given = copied(arguments)
    made = work(*given)
    if made is None:
        return (given[0],)
    return made if isinstance(made, tuple) else (made,)


def distance(ours: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> float:
    """Return the largest relative L2 error of the tensors, all of each: wrong strides show in the last rows."""
    return max(relative(a, b) for a, b in zip(ours, reference, strict=True) if b.numel())
