"""The full-size networks: diffusers' (eager and compiled, as a user would) beside ours, in turn in one process."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from dvgwm.models.denoisers import DenoiseEngine, ModulateEngine
from dvgwm.models.dit import build_transformer
from dvgwm.models.fused import FusedTransformer, Modulations
from dvgwm.models.precision import PRECISIONS
from dvgwm.models.sizes import DiT, Preset

from .measure import Bench, first_call, ratio, relative, timed, watched_card, weight_bytes, working_bytes
from .size import size_of

OURS = ("bfloat16", "bfloat16_kernel", "fp8", "fp8_kernel", "fp8_8bit", "fp8_fp8")
PEAKED = 2.0
"""Times the weights of the norms of queries and keys: random ones give nearly uniform attention, in which no error shows."""
Run = Callable[[Tensor, Tensor], Tensor]
"""State and time to velocity."""

# A block that falls back to eager in silence would be measured as a slow kernel.
torch._dynamo.config.recompile_limit = 64
torch._dynamo.config.fail_on_recompile_limit_hit = True


def ours(bench: Bench) -> tuple[str, ...]:
    """Return the precisions of this device's instructions."""
    return OURS if bench.has_fp8 else OURS[:2]


def chosen_attention(device: str, heads: int, width: int) -> str:
    """Return torch's own choice of a backend for attention of this form."""
    tensors = [torch.randn(1, heads, 512, width, device=device, dtype=torch.bfloat16) for _ in range(3)]
    with torch.profiler.profile(acc_events=True) as seen:
        scaled_dot_product_attention(*tensors)
    prefix = "aten::_scaled_dot_product_"
    return next((event.key.removeprefix(prefix) for event in seen.key_averages() if event.key.startswith(prefix)), "?")


class Denoiser:
    """One transformer at one size: its inputs, every variant of it, and its float32 reference on demand, if it fits."""

    def __init__(
        self, bench: Bench, size: Preset, dit: DiT, pixels: tuple[int, int], branches: int, flow: bool,
        referenced: bool = False,
    ) -> None:  # fmt: skip
        self.bench, self.size, self.dit, self.flow = bench, size, dit, flow
        self.grid = size.grid(pixels)
        torch.manual_seed(0)
        with torch.device("meta"):
            numbers = sum(tensor.numel() for tensor in build_transformer(dit, size, 1).parameters())
        place = bench.place_for(numbers)
        with torch.device(place):
            transformer = build_transformer(dit, size, 1).eval().requires_grad_(False)
        with torch.device(bench.device):
            channels = size.codec.channels
            self.state = torch.randn(1, size.latent_frames, channels, *self.grid)
            self.image = torch.randn(1, 1, channels, *self.grid)
            self.text = torch.randn(branches, size.text.max_tokens, size.text.width)
        transformer.set_attn_processor(CogVideoXAttnProcessor2_0())
        for block in transformer.transformer_blocks:
            for norm in (block.attn1.norm_q, block.attn1.norm_k):
                norm.weight.mul_(PEAKED)
        self.time = torch.tensor([0.5 if flow else 499.0], device=bench.device)
        self.flop, self.attention_flop = self._count(branches)
        referenced = referenced and place == bench.device
        self.reference = self.velocity(self.engine(transformer)) if referenced else None
        # In place from here on: two copies of the float32 weights would not serve anything.
        self.plain = nn.Module.to(nn.Module.to(transformer, torch.bfloat16), bench.device)

    def engine(self, network: nn.Module, modulation: Tensor | None = None) -> Run:
        """Return state and time to velocity, through the engine of a bundle; ``modulation`` is that of `time`."""
        made = DenoiseEngine(network, self.dit, self.grid, self.size.latent_frames, self.flow).to(self.bench.device)

        def run(state: Tensor, time: Tensor) -> Tensor:
            with torch.inference_mode():
                return made(state, time, self.text.to(state.dtype), self.image.to(state.dtype), modulation)

        return run

    def velocity(self, run: Run, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the velocity at half of the noise: a few steps would divide its error by 20 to 30."""
        return run(self.state.to(dtype), self.time).float().clone()

    def variants(self) -> dict[str, Callable[[], tuple[Run, int]]]:
        """Return a maker of each variant, with its weights' bytes: diffusers eager, compiled, then ours by precision.

        They are made in this order, one at a time. Compiled means block by block, theirs as ours.
        """
        made: dict[str, Callable[[], tuple[Run, int]]] = {
            "diffusers eager": self._diffusers,
            "diffusers compile": self._compiled,
        }
        if not self.bench.small:  # cuDNN's is a GPU's
            made["diffusers compile, cuDNN attention"] = lambda: self._compiled(SDPBackend.CUDNN_ATTENTION)
        return made | {name: lambda name=name: self._fused(name) for name in OURS}

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
        precision = PRECISIONS[name]
        with torch.inference_mode():
            modulation = ModulateEngine(Modulations(self.plain, precision.dtype), self.flow)(self.time)
        fused = FusedTransformer(self.plain, precision, modulated=True)
        for block in fused.blocks:
            block.compile(dynamic=False)
        return self.engine(fused, modulation), weight_bytes(fused)

    def _count(self, branches: int) -> tuple[float, float]:
        """Return the work of one forward, and attention's share of it, counted on shapes alone."""
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

    def floor_s(self, name: str) -> float | None:
        """Return a variant's time at this machine's measured matrix rates, None before they are measured."""
        return floor_s(self.flop, self.attention_flop, self.dit.layers, name, self.bench.ceilings())


def floor_s(flop: float, attention_flop: float, layers: int, name: str, rates: Mapping[str, float]) -> float | None:
    """Return the seconds of the work at the matrix ``rates`` of the variant ``name``, None before they are measured.

    In FP8 are the products of all blocks but the first and the last. Attention on 8-bit scores multiplies values in bfloat16.
    """
    if not {"bf16", "fp8"} <= rates.keys():
        return None
    in_8_bits = max(layers - 2, 0) / layers if name.startswith("fp8") else 0.0
    scores = {"fp8_8bit": 0.5, "fp8_fp8": 1.0}.get(name, 0.0)
    eight = in_8_bits * (flop - attention_flop) + scores * attention_flop
    return eight / rates["fp8"] + (flop - eight) / rates["bf16"]


def attention_of(denoiser: Denoiser, name: str) -> str:
    """Return the attention of a variant, in words."""
    if name in OURS:
        kind = PRECISIONS[name].attention
        return "the library's" if kind == "library" else f"ours ({kind})"
    if "cuDNN" in name:
        return "cuDNN's"
    return f"torch's choice ({chosen_attention(denoiser.bench.device, denoiser.dit.heads, denoiser.dit.head_width)})"


def run_denoiser(bench: Bench, stage: str, make: Callable[[], Denoiser], calls: int, names: tuple[str, ...]) -> None:
    """Record one forward of every variant, its memory, first call, error of its velocity, and share of its floor."""
    title, denoiser = f"{stage} forward", None
    baselines = ("diffusers eager", "diffusers compile", "diffusers compile, cuDNN attention")
    for name in bench.wanted(title, (*baselines[: 2 if bench.small else 3], *names)):
        with bench.trying(title, name):
            denoiser = denoiser or make()  # not where all is recorded
            measure(bench, title, denoiser, name, calls)


def measure(bench: Bench, title: str, denoiser: Denoiser, name: str, calls: int) -> None:
    """Record one forward of one variant; its memory is free when this returns."""
    state = denoiser.state.bfloat16()
    run, held = denoiser.variants()[name]()
    work = partial(run, state, denoiser.time)
    start, likeness = first_call(work, bench.device), {}
    if denoiser.reference is not None:
        likeness["relative_l2"] = relative(denoiser.velocity(run, torch.bfloat16), denoiser.reference)
    memory = working_bytes(work, bench.device)
    with watched_card(bench.device) as card:
        found = timed(work, bench.rounds, bench.device)
    median = found["median_s"]
    eager, compiled = bench.median(title, "diffusers eager"), bench.median(title, "diffusers compile")
    bench.row(
        title, variant=name, **found, **card, calls=calls, stage_s=calls * median, first_call_s=start,
        weight_bytes=held, working_bytes=memory, flop=denoiser.flop, rate=denoiser.flop / median,
        floor_s=denoiser.floor_s(name), share_of_floor=ratio(denoiser.floor_s(name), median),
        **beside(median, eager=eager, compile=compiled), **likeness,
        loss="bounded", kernels="compiled on the spot" if name in OURS else "torch's",
        attention=attention_of(denoiser, name),
    )  # fmt: skip


def beside(median: float, **baselines: float | None) -> dict[str, float]:
    """Return the time of every recorded baseline in shares of this one's."""
    return {f"against_{name}": taken / median for name, taken in baselines.items() if taken is not None}


def run_preview(bench: Bench) -> None:
    """The preview: two branches, 50 steps."""
    size = size_of(bench)
    make = partial(Denoiser, bench, size, size.preview, size.low, 2, flow=False, referenced=True)
    run_denoiser(bench, "preview", make, size.sampling.preview_steps, ours(bench))


def run_refine(bench: Bench) -> None:
    """The refiner: one branch, 4 steps."""
    size = size_of(bench)
    assert size.refiner is not None
    make = partial(Denoiser, bench, size, size.refiner, size.high, 1, flow=True, referenced=True)
    run_denoiser(bench, "refine", make, size.sampling.refine_steps, ours(bench))


def run_one_stage(bench: Bench) -> None:
    """The paper's baseline on this machine: the preview's network at the refined size, 50 steps of two branches."""
    size = size_of(bench)
    bench = replace(bench, rounds=min(bench.rounds, 3))
    make = partial(Denoiser, bench, size, size.preview, size.high, 2, flow=False)
    names = tuple(name for name in ours(bench) if name in ("bfloat16_kernel", "fp8_kernel"))
    run_denoiser(bench, "one stage", make, size.sampling.preview_steps, names)
