"""The full-size networks: what a user would pick (diffusers, eager and compiled) beside ours, in turn in one process."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from measure import Bench, alternate, ceilings, first_call, relative, weight_bytes, working_bytes
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from dvgwm.kernels.affine_step import affine_step
from dvgwm.models.denoisers import DenoiseEngine
from dvgwm.models.dit import build_transformer
from dvgwm.models.fused import FusedTransformer
from dvgwm.models.precision import PRECISIONS
from dvgwm.models.presets import preset
from dvgwm.models.sizes import DiT, Preset
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec

OURS = ("bfloat16", "bfloat16_kernel", "fp8", "fp8_kernel", "fp8_8bit", "fp8_fp8")
CHECKED_STEPS = 3
"""Sampler steps after which every variant's latents are compared with float32's."""
Run = Callable[[Tensor, Tensor], Tensor]
"""State and time to velocity."""

# A block that falls back to eager in silence would be measured as a slow kernel.
torch._dynamo.config.recompile_limit = 64
torch._dynamo.config.fail_on_recompile_limit_hit = True


def sized(bench: Bench) -> Preset:
    """Return the preset under measurement."""
    return preset(bench.preset)


def best(bench: Bench) -> str:
    """Return the precision that is fastest on this device, of those that were measured."""
    return "fp8_kernel" if "fp8_kernel" in ours(bench) else "bfloat16_kernel"


def ours(bench: Bench) -> tuple[str, ...]:
    """Return the precisions that this device has instructions for."""
    if bench.device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        return OURS[:2]
    return OURS


def chosen_attention(device: str, heads: int, width: int) -> str:
    """Return the backend that torch chooses by itself for attention of this form."""
    tensors = [torch.randn(1, heads, 512, width, device=device, dtype=torch.bfloat16) for _ in range(3)]
    with torch.profiler.profile(acc_events=True) as seen:
        scaled_dot_product_attention(*tensors)
    prefix = "aten::_scaled_dot_product_"
    return next((event.key.removeprefix(prefix) for event in seen.key_averages() if event.key.startswith(prefix)), "?")


class Denoiser:
    """One transformer at one size: its inputs, its float32 reference where wanted, and every variant of it."""

    def __init__(
        self, bench: Bench, size: Preset, dit: DiT, pixels: tuple[int, int], branches: int, flow: bool,
        referenced: bool = False,
    ) -> None:  # fmt: skip
        self.bench, self.size, self.dit, self.flow = bench, size, dit, flow
        self.grid = size.grid(pixels)
        torch.manual_seed(0)
        with torch.device(bench.device):
            transformer = build_transformer(dit, size, 1).eval().requires_grad_(False)
            channels = size.codec.channels
            self.state = torch.randn(1, size.latent_frames, channels, *self.grid)
            self.image = torch.randn(1, 1, channels, *self.grid)
            self.text = torch.randn(branches, size.text.max_tokens, size.text.width)
        transformer.set_attn_processor(CogVideoXAttnProcessor2_0())
        self.sampler = SamplerSpec("euler_flow", 4) if flow else SamplerSpec("ddim_v", 50, 6.0)
        self.flop, self.attention_flop = self._count(branches)
        self.reference = self.steps(self.engine(transformer)) if referenced else None
        # In place from here on: two copies of the float32 weights would not serve anything.
        self.plain = nn.Module.to(transformer, torch.bfloat16)

    def engine(self, network: nn.Module) -> Run:
        """Return state and time to velocity, through the engine that bundles are made of."""
        made = DenoiseEngine(network, self.dit, self.grid, self.size.latent_frames, self.flow).to(self.bench.device)

        def run(state: Tensor, time: Tensor) -> Tensor:
            with torch.inference_mode():
                return made(state, time, self.text.to(state.dtype), self.image.to(state.dtype))

        return run

    def steps(self, run: Run, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the latents after the first steps of the stage's sampler."""
        state = self.state.clone()
        for step in build_sampler(self.sampler).steps[:CHECKED_STEPS]:
            velocity = run(state.to(dtype), torch.tensor([step.time], device=state.device)).float()
            affine_step(state, velocity, None, None, step.coefficients())
        return state

    def variants(self, names: tuple[str, ...]) -> dict[str, Callable[[], tuple[Run, int]]]:
        """Return what makes each variant and counts its weights' bytes: diffusers eager, compiled, then ours by precision.

        They are made in this order, one at a time. Compiled means block by block, theirs as ours.
        """
        made: dict[str, Callable[[], tuple[Run, int]]] = {"diffusers eager": self._diffusers}
        if self.bench.device == "cuda":
            made["diffusers compile"] = self._compiled
            made["diffusers compile, cuDNN attention"] = lambda: self._compiled(SDPBackend.CUDNN_ATTENTION)
        return made | {name: lambda name=name: self._fused(name) for name in names}

    def _diffusers(self) -> tuple[Run, int]:
        return self.engine(self.plain), weight_bytes(self.plain)

    def _compiled(self, attention: SDPBackend | None = None) -> tuple[Run, int]:
        torch.compiler.reset()
        for block in self.plain.transformer_blocks:
            block.compile(fullgraph=True, dynamic=False)
        run, held = self._diffusers()

        def under(state: Tensor, time: Tensor) -> Tensor:
            with nullcontext() if attention is None else sdpa_kernel(attention):
                return run(state, time)

        return under, held

    def _fused(self, name: str) -> tuple[Run, int]:
        torch.compiler.reset()
        fused = FusedTransformer(self.plain, PRECISIONS[name])
        if self.bench.device == "cuda":
            for block in fused.blocks:
                block.compile(dynamic=False)
        return self.engine(fused), weight_bytes(fused)

    def _count(self, branches: int) -> tuple[float, float]:
        """Return the work of one forward, and that of attention in it, counted on shapes alone."""
        with torch.device("meta"):
            network = build_transformer(self.dit, self.size, 1)
            network.set_attn_processor(CogVideoXAttnProcessor2_0())
            engine = DenoiseEngine(network, self.dit, self.grid, self.size.latent_frames, self.flow)
            shapes = (self.state.shape, (1,), self.text.shape, self.image.shape)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                engine(*(torch.empty(shape) for shape in shapes))
        tokens = self.size.text.max_tokens + engine.cosines.shape[0]
        width = self.dit.heads * self.dit.head_width
        return counter.get_total_flops(), 4 * branches * self.dit.layers * tokens**2 * width

    def floor_s(self, name: str) -> float:
        """Return the shortest time that this machine's measured matrix rates allow a variant."""
        best = ceilings(self.bench.file, self.bench.facts["gpu"])
        bf16, fp8 = best.get("bf16", math.nan), best.get("fp8", math.nan)
        products = fp8 if name.startswith("fp8") else bf16
        scores = fp8 if name.endswith(("8bit", "fp8_fp8")) else bf16
        return (self.flop - self.attention_flop) / products + self.attention_flop / scores


def run_denoiser(bench: Bench, stage: str, denoiser: Denoiser, names: tuple[str, ...], calls: int) -> None:
    """Record one forward of every variant, its memory, first call, error after a few steps, and share of its floor.

    A row is written as soon as its variant is measured, and a variant that does not run gets one that says why.
    """
    title, baselines = f"{stage} forward", {}
    state, time = denoiser.state.bfloat16(), torch.tensor([499.0 if not denoiser.flow else 0.5], device=bench.device)
    theirs = chosen_attention(bench.device, denoiser.dit.heads, denoiser.dit.head_width)
    for name, make in denoiser.variants(names).items():
        try:
            run, held = make()
            start = first_call(lambda run=run: run(state, time), bench.device)
            error = math.nan
            if denoiser.reference is not None:
                error = relative(denoiser.steps(run, torch.bfloat16), denoiser.reference)
            memory = working_bytes(lambda run=run: run(state, time), bench.device)
            median, slowest = alternate({name: lambda run=run: run(state, time)}, bench.rounds, bench.device)[name]
        except Exception as error:  # a compiler's and a library's errors have no common base
            bench.row(title, variant=name, refused=f"{type(error).__name__}: {str(error).strip()[:300]}", loss="none")
            continue
        finally:
            run = None
            if bench.device == "cuda":
                torch.cuda.empty_cache()
        baselines[name] = median
        eager, compiled = (baselines.get(f"diffusers {way}", math.nan) for way in ("eager", "compile"))
        bench.row(
            title, variant=name, median_s=median, max_s=slowest, calls=calls, stage_s=calls * median,
            first_call_s=start, weight_bytes=held, working_bytes=memory, flop=denoiser.flop,
            rate=denoiser.flop / median, share_of_floor=denoiser.floor_s(name) / median, against_eager=eager / median,
            against_compile=compiled / median, relative_l2=error, loss="bounded",
            kernels="compiled on the spot" if name in OURS else "torch's",
            attention=theirs if name in ("diffusers eager", "diffusers compile") else None,
        )  # fmt: skip


def run_preview(bench: Bench) -> None:
    """The preview: two branches, 50 steps."""
    size = sized(bench)
    denoiser = Denoiser(bench, size, size.preview, size.low, 2, flow=False, referenced=True)
    run_denoiser(bench, "preview", denoiser, ours(bench), size.sampling.preview_steps)


def run_refine(bench: Bench) -> None:
    """The refiner: one branch, 4 steps."""
    size = sized(bench)
    assert size.refiner is not None
    denoiser = Denoiser(bench, size, size.refiner, size.high, 1, flow=True, referenced=True)
    run_denoiser(bench, "refine", denoiser, ours(bench), size.sampling.refine_steps)


def run_one_stage(bench: Bench) -> None:
    """The paper's baseline on this machine: the preview's network at the refined size, 50 steps of two branches."""
    size = sized(bench)
    bench = replace(bench, rounds=min(bench.rounds, 3))
    denoiser = Denoiser(bench, size, size.preview, size.high, 2, flow=False)
    names = tuple(name for name in ours(bench) if name in ("bfloat16_kernel", "fp8_kernel"))
    run_denoiser(bench, "one stage", denoiser, names, size.sampling.preview_steps)
