"""The stages of a pipeline: each makes a named tensor from earlier ones, with the manifest's engines.

A stage's kind and engines choose the function for its work (`WORK`). The functions share `Stage`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backends.backend import Backend, Engine
from .backends.watched import watched
from .bundle.manifest import ActionContract, StageSpec
from .bundle.prompts import PromptStore
from .cameras.image import fit
from .chunks import agree, blend, chunking
from .denoise import Context, denoise, paced
from .errors import BundleIncompatibleError, OutputError
from .noise import draw
from .sampler import Sampler
from .samplers.rows import build_sampler
from .types import FloatArray, Tensor

Tensors = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the pipeline, opened on a backend; ``engines`` are keyed by role.

    ``modulations`` are of the sampler's rows, made when the stage was opened, if it has an engine for them.
    """

    spec: StageSpec
    engines: Mapping[str, Engine]
    backend: Backend
    prompts: PromptStore
    actions: ActionContract
    sampler: Sampler | None
    modulations: tuple[Tensor, ...] = ()

    def run(self, tensors: Tensors, context: Context) -> dict[str, Any]:
        """Return this stage's tensors, made from the earlier ones.

        Raises `OutputError` (32) if one is not finite, `EngineLostError` (31) if the backend's library fails.
        """
        # What overflows is seen where outputs are checked: numpy need not warn of it.
        with watched(f"stage {self.spec.name}"), np.errstate(all="ignore"):
            made = WORK[_key(self.spec)](self, tensors, context)
            for name, tensor in made.items():
                check_finite(self.backend, self.spec.name, name, tensor)
        return made

    def input(self, tensors: Tensors, name: str) -> Any:
        """Return the earlier tensor under this stage's ``name`` for it."""
        return tensors[self.spec.inputs[name]]

    def initial_state(self, shape: tuple[int, ...], seed: int) -> Tensor:
        """Return the sampler's first state: noise."""
        assert self.sampler is not None
        return self.backend.upload(draw(seed, self.spec.name, 0, shape) * np.float32(self.sampler.initial_scale))

    def denoise(self, state: Tensor, conditions: Mapping[str, Tensor], context: Context) -> None:
        """Take ``state`` in place through all of the sampler's rows."""
        assert self.sampler is not None
        engine = self.engines["denoise"]
        denoise(self.spec.name, engine, self.backend, self.sampler, state, conditions, context, self.modulations)


def open_stage(
    spec: StageSpec, engines: Mapping[str, Engine], backend: Backend, prompts: PromptStore, actions: ActionContract
) -> Stage:
    """Return the stage of ``spec``, ready to run; raises `BundleIncompatibleError` if there is no such kind."""
    if _key(spec) not in WORK:
        raise BundleIncompatibleError(
            "STAGE_PARTS", f"stage {spec.name}: no {spec.kind} has engines {sorted(engines)} and sampler {spec.sampler}"
        )
    sampler = None if spec.sampler is None else build_sampler(spec.sampler)
    modulations = _modulations(spec.name, engines["modulate"], backend, sampler) if "modulate" in engines else ()
    return Stage(spec, engines, backend, prompts, actions, sampler, modulations)


def _modulations(name: str, engine: Engine, backend: Backend, sampler: Sampler | None) -> tuple[Tensor, ...]:
    """Return the modulations of every row of the sampler: they depend on its time alone. The engine is closed afterwards."""
    assert sampler is not None
    with watched(f"stage {name}"):
        times = (backend.upload(np.array([step.time], np.float32)) for step in sampler.steps)
        made = tuple(backend.concatenate([engine.run({"time": time})["modulation"]]) for time in times)
        for modulation in made:
            check_finite(backend, name, "modulation", modulation)
    engine.close()
    return made


def check_finite(backend: Backend, stage: str, name: str, tensor: Tensor) -> None:
    """Return if ``tensor`` of ``stage`` is finite; raise `OutputError` if not."""
    if not backend.finite(tensor):
        raise OutputError(
            "OUTPUT_NONFINITE",
            f"stage {stage}: {name} has numbers that are not finite, nothing was played; its weights or its constants are "
            "spoiled: rebuild the bundle",
        )


def batch_sizes(spec: StageSpec) -> dict[str, int]:
    """Return the open sizes of the stage's engines, by their names in the specs."""
    guided = spec.sampler is not None and spec.sampler.guidance != 1.0
    sizes = {"branches": 1 + guided}
    if spec.kind == "act" and "denoise" in spec.engines:
        chunks = chunking(spec)
        sizes |= {"frames": len(chunks.shown), "chunks": len(chunks.starts) * int(spec.number("samples"))}
    return sizes


def encode_text(stage: Stage, tensors: Tensors, context: Context) -> dict[str, Any]:
    """Return the instruction's embedding, and guidance's empty one, from the prompt store."""
    output, embed, upload = stage.spec.output, stage.prompts.embed, stage.backend.upload
    return {output: upload(embed(stage.input(tensors, "instruction"))), f"{output}_empty": upload(embed(""))}


def encode_image(stage: Stage, tensors: Tensors, context: Context) -> dict[str, Any]:
    """Return the first frame's latents, scaled channel by channel for the network conditioned on them."""
    engine = stage.engines["encode"]
    _, height, width, _ = engine.spec.input("image").shape
    image = fit(stage.input(tensors, "image"), int(height), int(width))
    with context.profiler.span(f"{stage.spec.name}: engine", flop=engine.spec.flop, on=stage.backend):
        encoded = engine.run({"image": stage.backend.upload(image[None])})["latents"]
    return {stage.spec.output: stage.backend.normalise(encoded, stage.spec.vector("mean"), stage.spec.vector("std"))}


def denoise_latents(stage: Stage, tensors: Tensors, context: Context) -> dict[str, Any]:
    """Return latents made from noise, or from an earlier stage's latents if the inputs name a ``state``."""
    if "state" in stage.spec.inputs:
        state = stage.backend.concatenate([stage.input(tensors, "state")])  # a copy: what came before is shown, too
    else:
        state = stage.initial_state(tuple(map(int, stage.engines["denoise"].spec.input("state").shape)), context.seed)
    stage.denoise(state, _conditions(stage, tensors), context)
    return {stage.spec.output: state}


def _conditions(stage: Stage, tensors: Tensors) -> dict[str, Tensor]:
    """Return the engine's inputs beside state and time; with guidance the unconditional branch comes first."""
    assert stage.sampler is not None
    guided = any(step.guidance != 1.0 for step in stage.sampler.steps)
    conditions = {name: tensors[source] for name, source in stage.spec.inputs.items() if name != "state"}
    for name, source in stage.spec.unconditional.items():
        if guided and name in conditions:
            conditions[name] = stage.backend.concatenate([tensors[source], conditions[name]])
    return conditions


def bridge(stage: Stage, tensors: Tensors, context: Context) -> dict[str, Any]:
    """Return the refiner's start: preview latents rescaled, upsampled and degraded with noise (DVG-WM, Eq. A.8)."""
    spec, latents = stage.spec, stage.input(tensors, "latents")
    frames, height, width = (int(spec.number(name)) for name in ("frames", "height", "width"))
    noise = draw(context.seed, spec.name, 0, (1, frames, latents.shape[2], height, width))
    scale, shift = spec.vector("scale"), spec.vector("shift")
    with context.profiler.span(f"{spec.name}: kernel", on=stage.backend):
        start = stage.backend.bridge(
            latents, scale, shift, stage.backend.upload(noise), spec.number("signal"), spec.number("strength")
        )
    return {spec.output: start}


def decode(stage: Stage, tensors: Tensors, context: Context) -> dict[str, Any]:
    """Return frames, uint8 T H W 3, decoded chunk by chunk with the decoder's cache carried along."""
    latents, name, backend = stage.input(tensors, "latents"), stage.spec.name, stage.backend
    first, following = stage.engines["decode_first"], stage.engines["decode_next"]
    head, chunk = (int(engine.spec.input("latents").shape[1]) for engine in (first, following))
    frames, means, cache, total = list[Tensor](), list[Tensor](), dict[str, Tensor](), latents.shape[1]
    chunks = [(0, head), *((at, at + chunk) for at in range(head, total, chunk))]
    for begin, end in paced(name, chunks, backend, context):
        engine = following if begin else first
        with context.profiler.span(f"{name}: engine", flop=engine.spec.flop, on=backend):
            outputs = dict(engine.run({"latents": latents[:, begin:end], **cache}))
        # Copies, as the next run writes over them; the host waits for none of it before the last chunk is on its way.
        frames.append(backend.concatenate([outputs.pop("frames")]))
        # A number that is not finite is lost where frames are rounded to bytes; their mean before that has it still.
        if "frames_mean" in outputs:
            means.append(backend.concatenate([outputs.pop("frames_mean")]))
        else:
            for tensor in outputs.values():
                check_finite(backend, name, "frames", tensor)
        cache = {following.spec.carry[output]: tensor for output, tensor in outputs.items()}
    if means:
        check_finite(backend, name, "frames", backend.concatenate(means))
    return {stage.spec.output: np.concatenate([backend.download(chunk)[0] for chunk in frames])}


def act_by_diffusion(stage: Stage, tensors: Tensors, context: Context) -> dict[str, Any]:
    """Return actions by diffusion policy: chunks that overlap, each shown a few imagined frames, every frame encoded once.

    Beside the actions there is the standard deviation of the policy's samples, as a share of each action's range.
    """
    spec, backend, encoder = stage.spec, stage.backend, stage.engines["encode"]
    chunks, samples = chunking(spec), int(spec.number("samples"))
    count = len(chunks.starts)
    frames = np.ascontiguousarray(stage.input(tensors, "plan")[chunks.shown])
    with context.profiler.span(f"{spec.name}: encoder", flop=encoder.spec.flop * len(frames), on=backend):
        encoded = encoder.run({"frames": backend.upload(frames)})["features"]
    shown = [encoded[index : index + 1] for index in map(int, chunks.shown_index.ravel())]
    features = backend.concatenate(shown).reshape(count, -1)
    _, horizon, dof = stage.engines["denoise"].spec.input("state").shape
    state = stage.initial_state((samples * count, int(horizon), int(dof)), context.seed)
    stage.denoise(state, {"features": backend.concatenate([features] * samples)}, context)
    drawn = np.asarray(backend.download(state), np.float32).reshape(samples, count, int(horizon), int(dof))
    chosen, deviation = agree(drawn, spec.number("medoid_above"))
    actions, spread = (blend(c, chunks.starts, spec.vector("blend"), chunks.actions) for c in (chosen, deviation))
    return {
        spec.output: unnormalise(actions.astype(np.float32), stage.actions, spec.name),
        f"{spec.output}_spread": spread / 2.0,  # of a range from -1 to 1
    }


def act_directly(stage: Stage, tensors: Tensors, context: Context) -> dict[str, Any]:
    """Return actions by one forward pass from keyframes and the newest observations (Dream4manip's action model)."""
    engine = stage.engines["act"]
    inputs = {}
    for spec in engine.spec.inputs:
        value = stage.input(tensors, spec.name)
        # Frames come without the batch axis that the engine wants.
        inputs[spec.name] = stage.backend.upload(value[None] if value.ndim + 1 == len(spec.shape) else value)
    with context.profiler.span(f"{stage.spec.name}: engine", flop=engine.spec.flop, on=stage.backend):
        actions = stage.backend.download(engine.run(inputs)["actions"])
    return {stage.spec.output: unnormalise(actions[0].astype(np.float32), stage.actions, stage.spec.name)}


def unnormalise(actions: FloatArray, contract: ActionContract, stage: str = "act") -> FloatArray:
    """Return ``actions`` (N D in [-1, 1]) in the contract's units; raises `OutputError` if one is not finite."""
    if not np.isfinite(actions).all():
        raise OutputError(
            "ACTION_NONFINITE", f"stage {stage}: an action is not finite, nothing was sent; rebuild the bundle"
        )
    lower, upper = np.asarray(contract.lower, np.float32), np.asarray(contract.upper, np.float32)
    return np.asarray(lower + (np.clip(actions, -1.0, 1.0) + 1.0) * 0.5 * (upper - lower), np.float32)


Work = Callable[[Stage, Tensors, Context], dict[str, Any]]
WORK: Mapping[tuple[str, tuple[str, ...], bool], Work] = {
    ("encode_text", (), False): encode_text,
    ("encode_text", ("encode",), False): encode_text,
    ("encode_image", ("encode",), False): encode_image,
    ("denoise", ("denoise",), True): denoise_latents,
    ("denoise", ("denoise", "modulate"), True): denoise_latents,
    ("bridge", (), False): bridge,
    ("decode", ("decode_first", "decode_next"), False): decode,
    ("act", ("denoise", "encode"), True): act_by_diffusion,
    ("act", ("act",), False): act_directly,
}
"""The function of a stage, by its kind, its engines' roles and whether it has a sampler."""


def _key(spec: StageSpec) -> tuple[str, tuple[str, ...], bool]:
    return spec.kind, tuple(sorted(spec.engines)), spec.sampler is not None
