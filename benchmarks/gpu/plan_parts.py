"""The decoder, a whole plan, and the preview in the product's own form, at full size."""

import math
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from denoiser_parts import Denoiser, best, sized
from diffusers import CogVideoXDDIMScheduler
from measure import Bench, alternate, first_call, psnr, relative, seconds, usable, working_bytes
from torch import Tensor, nn

from dvgwm.export.aoti import export_package, traced, write_weights
from dvgwm.export.interface import engine_spec
from dvgwm.kernels.affine_step import affine_step
from dvgwm.kernels.bridge import bridge
from dvgwm.models.denoisers import DenoiseEngine, rescaling
from dvgwm.models.engines import DecodeEngine
from dvgwm.models.fused import FusedTransformer
from dvgwm.models.fused_vae import FusedDecoder
from dvgwm.models.graph import Graph
from dvgwm.models.precision import PRECISIONS
from dvgwm.models.sizes import Preset, VaeSize
from dvgwm.models.vae import CHUNKS, build_vae
from dvgwm.runtime.backends.torch import TorchBackend
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.schedule import signal_and_noise
from dvgwm.runtime.samplers.spec import SamplerSpec


def decoders(bench: Bench, size: Preset) -> tuple[Any, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return the VAE in bf16, diffusers' decode of latents 1 T C h w to uint8 frames, and ours, chunk by chunk."""
    assert isinstance(size.codec, VaeSize)
    torch.manual_seed(0)
    with torch.device(bench.device):
        vae = nn.Module.to(build_vae(size.codec).eval().requires_grad_(False), torch.bfloat16)
    fused = FusedDecoder(deepcopy(vae))  # which lays its weights out anew: the other's are to stay as they were
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
            frames, *cache, _ = first(latents[:, :head])
            made = [frames]
            for at in range(head, latents.shape[1], step):
                frames, *cache, _ = following(latents[:, at : at + step], *cache)
                made.append(frames)
            return torch.cat(made, 1)

    return vae, diffusers, chunked


def run_decode(bench: Bench) -> None:
    """The decoder: all 49 frames, the exact early exit after what half of a plan's actions need, and theirs compiled."""
    torch.backends.cudnn.benchmark = True  # for theirs and ours
    size = sized(bench)
    vae, diffusers, chunked = decoders(bench, size)
    latents = torch.randn(1, size.latent_frames, size.codec.channels, *size.grid(size.high), device=bench.device)
    needed = 1 + (size.frames - 1) // 8
    needed += (needed - CHUNKS[0]) % CHUNKS[1]
    works = {
        "diffusers eager": lambda: diffusers(latents),
        "bfloat16": lambda: chunked(latents),
        "bfloat16, early exit": lambda: chunked(latents[:, :needed]),
        "diffusers compile": lambda: diffusers(latents),
    }
    base, made = math.nan, {}
    for name, work in works.items():
        if name == "diffusers compile":
            vae.decoder.compile(dynamic=False)
        start, result = usable(bench, "decode", {name: work})
        if not start:
            continue
        made[name] = result[name][:, :8].clone()
        result.clear()
        memory = working_bytes(work, bench.device)
        median, slowest = alternate({name: work}, bench.rounds, bench.device)[name]
        base = median if name == "diffusers eager" else base
        figures = {}
        if name.startswith("bfloat16"):
            figures["psnr_db"] = psnr(made[name], made["diffusers eager"]) if "diffusers eager" in made else math.nan
        if name == "bfloat16, early exit" and "bfloat16" in made:
            figures["early_exit_exact"] = bool(torch.equal(made[name], made["bfloat16"]))
        bench.row(
            "decode", variant=name, median_s=median, max_s=slowest, first_call_s=start[name], working_bytes=memory,
            against_eager=base / median, **figures, loss="bounded",
        )  # fmt: skip


def run_plan(bench: Bench) -> None:
    """One whole plan, 50 + 4 steps and the decode, to confirm that the stages' times add up within 3 %.

    The prompt's embedding and the first frame's latents are given, as in a run of the product after its first plan.
    """
    torch.backends.cudnn.benchmark = True  # for theirs and ours
    size = sized(bench)
    assert size.refiner is not None
    low = Denoiser(bench, size, size.preview, size.low, 2, flow=False)
    high = Denoiser(bench, size, size.refiner, size.high, 1, flow=True)
    _, diffusers, chunked = decoders(bench, size)
    fastest = best(bench)
    previews, refines = low.variants((fastest,)), high.variants((fastest,))
    # Compiling is in place: what is not compiled comes before.
    for name in (name for name in (fastest, "diffusers eager", "diffusers compile") if name in previews):
        decode = chunked if name == fastest else diffusers
        (preview, _), (refine, _) = previews[name](), refines[name]()
        whole = plan_of(bench, size, low, high, preview, refine, decode, ours=name == fastest)
        start = first_call(whole, bench.device)
        taken: list[float] = []
        memory = working_bytes(
            lambda whole=whole, taken=taken: taken.append(seconds(whole, bench.device)), bench.device
        )
        figures = {"wall_s": taken[0], "first_call_s": start, "working_bytes": memory}
        if bench.preset == "dvgwm_5b":
            figures["against_paper"] = 88.7 / figures["wall_s"]
        kernels = "compiled on the spot" if name == fastest else "torch's"
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
    size = sized(bench)
    denoiser = Denoiser(bench, size, size.preview, size.low, 2, flow=False)
    name = best(bench)
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
