"""The full-size networks: what a user would pick (diffusers, eager and compiled) beside ours, in turn in one process."""

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from measure import (
    Bench,
    alternate,
    ceilings,
    first_call,
    psnr,
    relative,
    seconds,
    usable,
    weight_bytes,
    working_bytes,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dvgwm.kernels.affine_step import affine_step
from dvgwm.kernels.bridge import bridge
from dvgwm.models.denoisers import DenoiseEngine, rescaling
from dvgwm.models.dit import build_transformer
from dvgwm.models.engines import DecodeEngine
from dvgwm.models.fused import FusedTransformer
from dvgwm.models.fused_vae import FusedDecoder
from dvgwm.models.precision import PRECISIONS
from dvgwm.models.presets import DiT, Preset, VaeSize, preset
from dvgwm.models.vae import CHUNKS, build_vae
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.schedule import signal_and_noise
from dvgwm.runtime.samplers.spec import SamplerSpec

OURS = ("bfloat16", "bfloat16_kernel", "fp8", "fp8_8bit", "fp8_fp8")
CHECKED_STEPS = 3
"""Sampler steps after which every variant's latents are compared with float32's."""


def sized(bench: Bench) -> Preset:
    """Return the preset under measurement."""
    return preset(bench.preset)


def ours(bench: Bench) -> tuple[str, ...]:
    """Return the precisions that this device has instructions for."""
    if bench.device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        return OURS[:2]
    return OURS


class Denoiser:
    """One transformer at one size: its inputs, its float32 reference, and every variant of it."""

    def __init__(
        self, bench: Bench, size: Preset, dit: DiT, pixels: tuple[int, int], branches: int, flow: bool
    ) -> None:
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
        self.reference = self.steps(self.engine(transformer))
        # In place from here on: two copies of the float32 weights would not serve anything.
        self.plain = nn.Module.to(transformer, torch.bfloat16)

    def engine(self, network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        """Return state and time to velocity, through the engine that bundles are made of."""
        made = DenoiseEngine(network, self.dit, self.grid, self.size.latent_frames, self.flow).to(self.bench.device)

        def run(state: Tensor, time: Tensor) -> Tensor:
            with torch.inference_mode():
                return made(state, time, self.text.to(state.dtype), self.image.to(state.dtype))

        return run

    def steps(self, run: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the latents after the first steps of the stage's sampler."""
        state = self.state.clone()
        for step in build_sampler(self.sampler).steps[:CHECKED_STEPS]:
            velocity = run(state.to(dtype), torch.tensor([step.time], device=state.device)).float()
            affine_step(state, velocity, None, None, step.coefficients())
        return state

    def variants(self, names: tuple[str, ...]) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """Return eager and compiled diffusers, and our precisions with each block compiled."""
        made = {"diffusers eager": self.engine(self.plain)}
        self.weights = dict.fromkeys(("diffusers eager", "diffusers compile"), weight_bytes(self.plain))
        if self.bench.device == "cuda":
            compiled = torch.compile(self.plain, fullgraph=True, dynamic=False)
            made["diffusers compile"] = self.engine(compiled)
        for name in names:
            fused = FusedTransformer(self.plain, PRECISIONS[name])
            if self.bench.device == "cuda":
                for block in fused.blocks:
                    block.compile(dynamic=False)
            made[name] = self.engine(fused)
            self.weights[name] = weight_bytes(fused)
        return made

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
    """Record one forward of every variant, its memory, first call, error after a few steps, and share of its floor."""
    title = f"{stage} forward"
    state, time = denoiser.state.bfloat16(), torch.tensor([499.0 if not denoiser.flow else 0.5], device=bench.device)
    variants = denoiser.variants(names)
    works = {name: lambda run=run: run(state, time) for name, run in variants.items()}
    starts, _ = usable(bench, title, works)
    works = {name: works[name] for name in starts}
    errors = {name: relative(denoiser.steps(variants[name], torch.bfloat16), denoiser.reference) for name in works}
    memory = {name: working_bytes(work, bench.device) for name, work in works.items()}
    times = alternate(works, bench.rounds, bench.device)
    for name, (median, slowest) in times.items():
        eager, compiled = (times.get(f"diffusers {way}", (math.nan,))[0] for way in ("eager", "compile"))
        bench.row(
            title, variant=name, median_s=median, max_s=slowest, calls=calls, stage_s=calls * median,
            first_call_s=starts[name], weight_bytes=denoiser.weights[name], working_bytes=memory[name], flop=denoiser.flop,
            rate=denoiser.flop / median, share_of_floor=denoiser.floor_s(name) / median, against_eager=eager / median,
            against_compile=compiled / median, relative_l2=errors[name], loss="bounded",
            kernels="compiled on the spot" if name in OURS else "torch's",
        )  # fmt: skip


def run_preview(bench: Bench) -> None:
    """The preview: two branches, 50 steps."""
    size = sized(bench)
    denoiser = Denoiser(bench, size, size.preview, size.low, 2, flow=False)
    run_denoiser(bench, "preview", denoiser, ours(bench), size.sampling.preview_steps)


def run_refine(bench: Bench) -> None:
    """The refiner: one branch, 4 steps."""
    size = sized(bench)
    assert size.refiner is not None
    denoiser = Denoiser(bench, size, size.refiner, size.high, 1, flow=True)
    run_denoiser(bench, "refine", denoiser, ours(bench), size.sampling.refine_steps)


def run_one_stage(bench: Bench) -> None:
    """The paper's baseline on this machine: the preview's network at the refined size, 50 steps of two branches."""
    size = sized(bench)
    denoiser = Denoiser(bench, size, size.preview, size.high, 2, flow=False)
    names = tuple(name for name in ours(bench) if name in ("bfloat16", "fp8_8bit"))
    run_denoiser(bench, "one stage", denoiser, names, size.sampling.preview_steps)


def decoders(bench: Bench, size: Preset) -> tuple[Any, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return the VAE in bf16, diffusers' decode of latents 1 T C h w to uint8 frames, and ours, chunk by chunk."""
    assert isinstance(size.codec, VaeSize)
    torch.manual_seed(0)
    with torch.device(bench.device):
        vae = nn.Module.to(build_vae(size.codec).eval().requires_grad_(False), torch.bfloat16)
    fused = FusedDecoder(vae)
    names = fused.cache_names(size.codec.channels, size.grid(size.high))
    first, following = (
        DecodeEngine(fused, size.refiner_scaling, names, is_first, dtype=torch.bfloat16).to(bench.device)
        for is_first in (True, False)
    )

    def diffusers(latents: Tensor) -> Tensor:
        with torch.inference_mode():
            raw = (latents * size.refiner_scaling.std[0]).transpose(1, 2).bfloat16()
            frames = vae.decode(raw).sample.float() * 0.5 + 0.5
            return (frames.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1)

    def chunked(latents: Tensor) -> Tensor:
        with torch.inference_mode():
            head, step = CHUNKS
            frames, *cache = first(latents[:, :head])
            made = [frames]
            for at in range(head, latents.shape[1], step):
                frames, *cache = following(latents[:, at : at + step], *cache)
                made.append(frames)
            return torch.cat(made, 1)

    return vae, diffusers, chunked


def run_decode(bench: Bench) -> None:
    """The decoder: all 49 frames, and the exact early exit after what half of a plan's actions need."""
    size = sized(bench)
    _, diffusers, chunked = decoders(bench, size)
    latents = torch.randn(1, size.latent_frames, size.codec.channels, *size.grid(size.high), device=bench.device)
    needed = 1 + (size.frames - 1) // 8
    needed += (needed - CHUNKS[0]) % CHUNKS[1]
    works = {
        "diffusers eager": lambda: diffusers(latents),
        "bfloat16": lambda: chunked(latents),
        "bfloat16, early exit": lambda: chunked(latents[:, :needed]),
    }
    starts, frames = usable(bench, "decode", works)
    works = {name: works[name] for name in starts}
    quality = psnr(frames["bfloat16"], frames["diffusers eager"])
    exact = bool(
        torch.equal(frames["bfloat16, early exit"], frames["bfloat16"][:, : frames["bfloat16, early exit"].shape[1]])
    )
    memory = {name: working_bytes(work, bench.device) for name, work in works.items()}
    times = alternate(works, bench.rounds, bench.device)
    for name, (median, slowest) in times.items():
        bench.row(
            "decode", variant=name, median_s=median, max_s=slowest, first_call_s=starts[name], working_bytes=memory[name],
            against_eager=times["diffusers eager"][0] / median, psnr_db=quality, early_exit_exact=exact, loss="bounded",
        )  # fmt: skip


def run_plan(bench: Bench) -> None:
    """One whole plan, 50 + 4 steps and the decode, to confirm that the stages' times add up within 3 %.

    The prompt's embedding and the first frame's latents are given, as in a run of the product after its first plan.
    """
    size = sized(bench)
    assert size.refiner is not None
    low = Denoiser(bench, size, size.preview, size.low, 2, flow=False)
    high = Denoiser(bench, size, size.refiner, size.high, 1, flow=True)
    _, diffusers, chunked = decoders(bench, size)
    best = "fp8_8bit" if "fp8_8bit" in ours(bench) else "bfloat16"
    previews, refines = low.variants((best,)), high.variants((best,))
    for name, preview in previews.items():
        decode = chunked if name == best else diffusers
        whole = plan_of(bench, size, low, high, preview, refines[name], decode, ours=name == best)
        start = first_call(whole, bench.device)
        taken: list[float] = []
        memory = working_bytes(
            lambda whole=whole, taken=taken: taken.append(seconds(whole, bench.device)), bench.device
        )
        figures = {"wall_s": taken[0], "first_call_s": start, "working_bytes": memory}
        if bench.preset == "dvgwm_5b":
            figures["against_paper"] = 88.7 / figures["wall_s"]
        kernels = "compiled on the spot" if name == best else "torch's"
        bench.row("plan", variant=name, **figures, loss="bounded", kernels=kernels)


def plan_of(
    bench: Bench, size: Preset, low: Denoiser, high: Denoiser, preview: Callable[[Tensor, Tensor], Tensor],
    refine: Callable[[Tensor, Tensor], Tensor], decode: Callable[[Tensor], Tensor], ours: bool,
) -> Callable[[], Tensor]:  # fmt: skip
    """Return a plan: ours steps with one kernel per step, diffusers with its own scheduler."""
    signal, strength = signal_and_noise(size.sampling.bridge_step)
    scale, shift = (torch.tensor(v, device=bench.device) for v in rescaling(size.preview_scaling, size.refiner_scaling))
    scale, shift = (values.expand(size.codec.channels).contiguous() for values in (scale, shift))
    noise = torch.randn_like(high.state)
    scheduler = CogVideoXDDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, snr_shift_scale=1.0,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    rows = build_sampler(SamplerSpec("ddim_v", size.sampling.preview_steps, 6.0)).steps
    flow = build_sampler(SamplerSpec("euler_flow", size.sampling.refine_steps)).steps

    def stepped(run: Callable[[Tensor, Tensor], Tensor], state: Tensor, steps: tuple[Any, ...]) -> Tensor:
        for step in steps:
            velocity = run(state.bfloat16(), torch.full((1,), step.time, device=state.device)).float()
            affine_step(state, velocity, None, None, step.coefficients())
        return state

    def scheduled(state: Tensor) -> Tensor:
        scheduler.set_timesteps(size.sampling.preview_steps)
        for time in scheduler.timesteps:
            empty, full = preview(state.bfloat16(), time[None].float().to(state.device)).float().chunk(2)
            state = scheduler.step(empty + 6.0 * (full - empty), time, state, return_dict=False)[0]
        return state

    def whole() -> Tensor:
        state = low.state.clone()
        state = stepped(preview, state, rows) if ours else scheduled(state)
        start = bridge(state, scale, shift, noise, signal, strength)
        return decode(stepped(refine, start, flow))

    return whole


def run_package(bench: Bench) -> None:
    """The product's own form: the preview as an AOTInductor package, against the same network compiled in place."""
    import tempfile
    from pathlib import Path

    from dvgwm.export.aoti import export_package, traced, write_weights
    from dvgwm.export.graphs import Graph
    from dvgwm.export.interface import engine_spec
    from dvgwm.runtime.backends.torch import TorchBackend

    size = sized(bench)
    denoiser = Denoiser(bench, size, size.preview, size.low, 2, flow=False)
    name = "fp8_8bit" if "fp8_8bit" in ours(bench) else "bfloat16"
    network = FusedTransformer(denoiser.plain, PRECISIONS[name])
    module = DenoiseEngine(network, size.preview, denoiser.grid, size.latent_frames, False).to(bench.device)
    time = torch.tensor([499.0], device=bench.device)
    inputs = {"state": denoiser.state, "time": time, "text": denoiser.text, "image": denoiser.image}
    graph = Graph("preview", module, inputs, ("velocity",), {"text": "branches"}, suffix="pt2")
    device = torch.device(bench.device)
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, graph.file), Path(folder, graph.weights)

        def build() -> None:
            program = traced(module, inputs, graph.dynamic, device)
            export_package(program, paths[0])
            write_weights(program, inputs, paths[1])

        build_s = first_call(build, bench.device)
        engine = TorchBackend(device).load(paths[0], engine_spec(graph))
        engine.warmup({key: tuple(tensor.shape) for key, tensor in inputs.items()})
        run = denoiser.engine(network)
        works = {"package": lambda: engine.run(inputs), "eager blocks": lambda: run(denoiser.state, time)}
        error = relative(engine.run(inputs)["velocity"].clone(), run(denoiser.state, time))
        for variant, (median, slowest) in alternate(works, bench.rounds, bench.device).items():
            bench.row(
                "preview package", variant=variant, precision=name, median_s=median, max_s=slowest, build_s=build_s,
                relative_l2=error, loss="bounded",
            )  # fmt: skip
