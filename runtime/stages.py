"""The six kinds of stage: named tensors in, named tensors out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .backend import Backend, Engine
from .chunks import ChunkPlan, agree, blend
from .denoise import Run, denoise
from .errors import BundleIncompatibleError, OutputError
from .image import fit
from .manifest import ActionContract, StageSpec
from .noise import draw
from .prompts import PromptStore
from .sampler import Table, table
from .types import FloatArray, ImageArray, Tensor

Tensors = Mapping[str, Any]


class Stage(Protocol):
    """One step of the pipeline, opened on a backend."""

    @property
    def spec(self) -> StageSpec:
        """What the manifest says of it."""

    def run(self, tensors: Tensors, run: Run) -> Tensors:
        """Return the tensors that this stage makes from the earlier ones."""


@dataclass(frozen=True, slots=True)
class EncodeText:
    """The instruction's embedding, and guidance's empty one, from the prompt store."""

    spec: StageSpec
    backend: Backend
    prompts: PromptStore

    def run(self, tensors: Tensors, run: Run) -> Tensors:
        instruction = tensors[self.spec.inputs["instruction"]]
        embed = self.prompts.embed
        return {
            self.spec.output: self.backend.upload(embed(instruction)),
            f"{self.spec.output}_empty": self.backend.upload(embed("")),
        }


@dataclass(frozen=True, slots=True)
class EncodeImage:
    """The first frame's latents, scaled channel by channel for the network that is conditioned on them."""

    spec: StageSpec
    backend: Backend
    engine: Engine

    def run(self, tensors: Tensors, run: Run) -> Tensors:
        (image_spec,) = self.engine.spec.inputs
        _, height, width, _ = image_spec.shape
        image = fit(tensors[self.spec.inputs["image"]], int(height), int(width))
        with run.profiler.span(f"{self.spec.name}: engine", flop=self.engine.spec.flop):
            encoded = self.engine.run({"image": self.backend.upload(image[None])})["latents"]
        raw = np.asarray(self.backend.download(encoded), np.float32)
        mean, std = (_channels(self.spec, name) for name in ("mean", "std"))
        return {self.spec.output: self.backend.upload((raw - mean[:, None, None]) / std[:, None, None])}


@dataclass(frozen=True, slots=True)
class Denoise:
    """Latents from noise, or from an earlier stage's latents where ``inputs`` names a ``state``."""

    spec: StageSpec
    backend: Backend
    engine: Engine
    table: Table

    def run(self, tensors: Tensors, run: Run) -> Tensors:
        shape = tuple(int(size) for size in _input(self.engine, "state").shape)
        if "state" in self.spec.inputs:
            state = self.backend.upload(self.backend.download(tensors[self.spec.inputs["state"]]))
        else:
            state = self.backend.upload(draw(run.seed, self.spec.name, 0, shape) * np.float32(self.table.initial_scale))
        denoise(self.spec.name, self.engine, self.backend, self.table, state, self._conditions(tensors), run)
        return {self.spec.output: state}

    def _conditions(self, tensors: Tensors) -> dict[str, Tensor]:
        guided = any(step.guidance != 1.0 for step in self.table.steps)
        conditions = {}
        for name, source in self.spec.inputs.items():
            if name == "state":
                continue
            empty = self.spec.unconditional.get(name) if guided else None
            conditions[name] = (
                tensors[source] if empty is None else self.backend.concatenate([tensors[empty], tensors[source]])
            )
        return conditions


@dataclass(frozen=True, slots=True)
class Bridge:
    """The refiner's start: preview latents rescaled, upsampled and degraded with noise (DVG-WM, Eq. A.8)."""

    spec: StageSpec
    backend: Backend

    def run(self, tensors: Tensors, run: Run) -> Tensors:
        latents = tensors[self.spec.inputs["latents"]]
        frames, height, width = (int(_number(self.spec, name)) for name in ("frames", "height", "width"))
        noise = draw(run.seed, self.spec.name, 0, (1, frames, latents.shape[2], height, width))
        with run.profiler.span(f"{self.spec.name}: kernel"):
            start = self.backend.bridge(
                latents,
                (frames, height, width),
                _channels(self.spec, "scale"),
                _channels(self.spec, "shift"),
                _number(self.spec, "signal"),
                _number(self.spec, "strength"),
                self.backend.upload(noise),
            )
        return {self.spec.output: start}


@dataclass(frozen=True, slots=True)
class Decode:
    """Frames from latents, chunk by chunk with the decoder's cache carried along."""

    spec: StageSpec
    backend: Backend
    first: Engine
    following: Engine

    def run(self, tensors: Tensors, run: Run) -> Tensors:
        latents = tensors[self.spec.inputs["latents"]]
        head, chunk = (int(_input(engine, "latents").shape[1]) for engine in (self.first, self.following))
        frames: list[ImageArray] = []
        cache: dict[str, Tensor] = {}
        total = latents.shape[1]
        for begin, end in [(0, head), *((at, at + chunk) for at in range(head, total, chunk))]:
            engine = self.following if begin else self.first
            with run.profiler.span(f"{self.spec.name}: engine", flop=engine.spec.flop):
                outputs = dict(engine.run({"latents": latents[:, begin:end], **cache}))
            frames.append(self.backend.download(outputs.pop("frames"))[0])
            cache = self._carried(outputs)
            run.progress(self.spec.name, end, total)
        return {self.spec.output: np.concatenate(frames)}

    def _carried(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        carry = self.following.spec.carry
        return {carry[name]: tensor for name, tensor in outputs.items()}


@dataclass(frozen=True, slots=True)
class DiffusionAct:
    """Actions by diffusion policy: chunks that overlap, each shown a few imagined frames, every frame encoded once.

    Beside the actions it gives the standard deviation of its samples, as a share of each action's range.
    """

    spec: StageSpec
    backend: Backend
    encoder: Engine
    policy: Engine
    table: Table
    contract: ActionContract

    def run(self, tensors: Tensors, run: Run) -> Tensors:
        plan, samples = chunk_plan(self.spec), int(_number(self.spec, "samples"))
        frames = np.ascontiguousarray(tensors[self.spec.inputs["plan"]][plan.seen])
        with run.profiler.span(f"{self.spec.name}: encoder", flop=self.encoder.spec.flop * len(frames)):
            encoded = self.encoder.run({"frames": self.backend.upload(frames)})["features"]
        features = np.asarray(self.backend.download(encoded))[plan.places].reshape(len(plan.starts), -1)
        conditions = {"features": self.backend.upload(np.tile(features, (samples, 1)))}
        _, horizon, dof = (size for size in _input(self.policy, "state").shape)
        shape = samples * len(plan.starts), int(horizon), int(dof)
        state = self.backend.upload(draw(run.seed, self.spec.name, 0, shape) * np.float32(self.table.initial_scale))
        denoise(self.spec.name, self.policy, self.backend, self.table, state, conditions, run)
        drawn = np.asarray(self.backend.download(state), np.float32).reshape(samples, len(plan.starts), *shape[1:])
        chosen, spread = agree(drawn, _number(self.spec, "medoid_above"))
        weights = _channels(self.spec, "blend")
        actions, doubt = (blend(part, plan.starts, weights, plan.actions) for part in (chosen, spread))
        return {
            self.spec.output: unnormalise(actions.astype(np.float32), self.contract),
            f"{self.spec.output}_spread": doubt / 2.0,  # of a range from -1 to 1
        }


@dataclass(frozen=True, slots=True)
class DirectAct:
    """Actions by one forward pass from the imagined keyframes and the newest observations (Dream4manip's action model)."""

    spec: StageSpec
    backend: Backend
    engine: Engine
    contract: ActionContract

    def run(self, tensors: Tensors, run: Run) -> Tensors:
        inputs = {
            spec.name: self.backend.upload(self._fitted(spec.name, tensors[self.spec.inputs[spec.name]]))
            for spec in self.engine.spec.inputs
        }
        with run.profiler.span(f"{self.spec.name}: engine", flop=self.engine.spec.flop):
            actions = self.backend.download(self.engine.run(inputs)["actions"])
        return {self.spec.output: unnormalise(actions[0].astype(np.float32), self.contract)}

    def _fitted(self, name: str, value: Tensor) -> Tensor:
        """Give uint8 frames the leading batch axis that the engine wants."""
        return value[None] if value.ndim + 1 == len(_input(self.engine, name).shape) else value


def batch_sizes(spec: StageSpec) -> dict[str, int]:
    """Return the sizes that the stage's engines leave open, by their names in the specs."""
    guided = spec.sampler is not None and spec.sampler.guidance != 1.0
    sizes = {"branches": 1 + guided}
    if spec.kind == "act" and "denoise" in spec.engines:
        plan = chunk_plan(spec)
        sizes |= {"frames": len(plan.seen), "chunks": len(plan.starts) * int(_number(spec, "samples"))}
    return sizes


def chunk_plan(spec: StageSpec) -> ChunkPlan:
    """Return where the chunks of a diffusion policy's stage begin and what they are shown."""
    offsets = tuple(map(int, _channels(spec, "offsets")))
    plan = ChunkPlan(int(_number(spec, "frames")), int(_number(spec, "stride")), offsets)
    reach = len(_channels(spec, "blend"))
    if not len(plan.starts) or plan.starts[-1] + reach < plan.actions or plan.stride > reach:
        raise BundleIncompatibleError(
            "STAGE_CHUNKS",
            f"stage {spec.name}: chunks of {reach} actions every {plan.stride} frames leave some of {plan.actions} out",
        )
    return plan


def unnormalise(actions: FloatArray, contract: ActionContract) -> FloatArray:
    """Return ``actions`` (N D in [-1, 1]) in the contract's units; raises `OutputError` where one is not finite."""
    if not np.isfinite(actions).all():
        raise OutputError("ACTION_NONFINITE", "the policy gave an action that is not finite; nothing was sent")
    lower, upper = np.asarray(contract.lower, np.float32), np.asarray(contract.upper, np.float32)
    return np.asarray(lower + (np.clip(actions, -1.0, 1.0) + 1.0) * 0.5 * (upper - lower), np.float32)


def open_stage(
    spec: StageSpec, engines: Mapping[str, Engine], backend: Backend, prompts: PromptStore, contract: ActionContract
) -> Stage:
    """Return the stage that ``spec`` describes, ready to run."""
    rows = None if spec.sampler is None else table(spec.sampler)
    match (spec.kind, sorted(engines), rows):
        case ("encode_text", _, None):
            return EncodeText(spec, backend, prompts)
        case ("encode_image", ["encode"], None):
            return EncodeImage(spec, backend, engines["encode"])
        case ("denoise", ["denoise"], Table()):
            return Denoise(spec, backend, engines["denoise"], rows)
        case ("bridge", [], None):
            return Bridge(spec, backend)
        case ("decode", ["decode_first", "decode_next"], None):
            return Decode(spec, backend, engines["decode_first"], engines["decode_next"])
        case ("act", ["denoise", "encode"], Table()):
            return DiffusionAct(spec, backend, engines["encode"], engines["denoise"], rows, contract)
        case ("act", ["act"], None):
            return DirectAct(spec, backend, engines["act"], contract)
    raise BundleIncompatibleError(
        "STAGE_PARTS", f"stage {spec.name}: no {spec.kind} has engines {sorted(engines)} and sampler {spec.sampler}"
    )


def _input(engine: Engine, name: str) -> Any:
    for spec in engine.spec.inputs:
        if spec.name == name:
            return spec
    raise BundleIncompatibleError("ENGINE_INPUT", f"{engine.spec.file}: wanted an input {name!r}; rebuild the bundle")


def _number(spec: StageSpec, name: str) -> float:
    value = spec.constants.get(name)
    if not isinstance(value, int | float):
        raise BundleIncompatibleError("STAGE_CONSTANT", f"stage {spec.name}: wanted a number {name!r}, got {value!r}")
    return float(value)


def _channels(spec: StageSpec, name: str) -> FloatArray:
    value = spec.constants.get(name)
    if isinstance(value, str) or value is None:
        raise BundleIncompatibleError(
            "STAGE_CONSTANT", f"stage {spec.name}: wanted {name!r} per channel, got {value!r}"
        )
    return np.atleast_1d(np.asarray(value, np.float32))
