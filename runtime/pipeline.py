"""The pipeline's two calls: `imagine` a plan from observations, `act` on it; each at the manifest's own rate."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .backends.backend import Backend, Engine, EngineSpec
from .backends.on_demand import OnDemandEngine
from .backends.watched import load_engine
from .bundle.disk import Bundle
from .bundle.manifest import Manifest, StageSpec
from .bundle.prompts import PromptStore
from .bundle.tokenizer import check_instruction, tokenize
from .denoise import Context, Progress
from .errors import BundleIncompatibleError, ConfigError
from .profiler import Profiler
from .samplers.spec import SamplerSpec, instead
from .stages import Stage, batch_sizes, check_finite, open_stage
from .types import ActionChunk, FloatArray, Observation, Plan, Tensor, check_image

PLAN = {"plan", "observations"}
"""Inputs of an act stage beside the outputs of other stages."""


RUN_ONCE = {"modulate"}
"""Roles of engines for the opening of a stage alone; their memory is free after it."""


def silent(stage: str, done: int, total: int) -> None:
    """Take progress and show nothing."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """Sampler settings for this run in place of the manifest's; None keeps the manifest's."""

    preview_sampler: str | None = None
    preview_steps: int | None = None
    guidance: float | None = None
    refine_steps: int | None = None

    def applied(self, spec: StageSpec) -> StageSpec:
        """Return ``spec`` with these settings."""
        if spec.sampler is None or spec.kind != "denoise":
            return spec
        if "state" in spec.inputs:
            return replace(spec, sampler=_changed(spec.sampler, steps=self.refine_steps))
        sampler = spec.sampler if self.preview_sampler is None else instead(spec.sampler, self.preview_sampler)
        return replace(spec, sampler=_changed(sampler, steps=self.preview_steps, guidance=self.guidance))


def _check_fingerprint(bundle: Bundle, backend: Backend) -> None:
    """Raise `BundleIncompatibleError` if the engines were compiled for another machine."""
    manifest, here = bundle.manifest, backend.fingerprint
    differ = [
        f"{name} {built_for} (here {here.get(name, 'none')})"
        for name, built_for in manifest.fingerprint.items()
        if here.get(name) != built_for
    ]
    if differ:
        raise BundleIncompatibleError(
            "BUNDLE_FINGERPRINT",
            f"{bundle.path} was compiled for {', '.join(differ)}; rebuild it here with `python export/build_engines.py "
            f"--preset {manifest.model.preset} --backend {manifest.backend} --precision {manifest.precision}`",
        )


def _leave(engine: Engine) -> None:
    """Free an engine kept in memory for its stage alone."""
    if isinstance(engine, OnDemandEngine):
        engine.close()


def _changed(sampler: SamplerSpec, **settings: Any) -> SamplerSpec:
    return replace(sampler, **{name: value for name, value in settings.items() if value is not None})


class Pipeline:
    """A bundle opened on a backend.

    ``evicted`` files have engines in memory for their stage alone; ``compiled`` has the places of engines made on this
    machine.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        cache: Path | None = None,
        overrides: Overrides | None = None,
        evicted: Collection[str] = (),
        compiled: Mapping[str, Path] | None = None,
    ) -> None:
        self.bundle, self.backend = bundle, backend
        self._compiled = compiled or {}
        _check_fingerprint(bundle, backend)
        self._resources = ExitStack()
        specs = [(overrides or Overrides()).applied(spec) for spec in bundle.manifest.pipeline]
        loaded = self._engines = dict[str, Engine]()
        for spec in specs:
            for role, engine in spec.engines.items():
                if engine.file not in loaded:
                    load = partial(self._load, engine)
                    seldom = engine.file in evicted or role in RUN_ONCE
                    loaded[engine.file] = OnDemandEngine(engine, load) if seldom else load()
                    self._resources.callback(loaded[engine.file].close)
        bundle.check_unchanged(bundle.manifest.files)
        self.prompts = PromptStore(bundle, cache, self._text_encoder(specs))
        stages = [
            open_stage(
                spec,
                {role: loaded[engine.file] for role, engine in spec.engines.items()},
                backend,
                self.prompts,
                bundle.manifest.action,
            )
            for spec in specs
        ]
        self._imagine = tuple(stage for stage in stages if stage.spec.kind != "act")
        acted_on = {source for spec in specs if spec.kind == "act" for source in spec.inputs.values()}
        self._act = tuple(stage for stage in stages if stage.spec.kind == "act" or stage.spec.output in acted_on - PLAN)

    def _load(self, engine: EngineSpec) -> Engine:
        path = self._compiled.get(engine.file) or self.bundle.file(engine.file)
        loaded = load_engine(self.backend, path, engine)
        self.bundle.check_unchanged(self.bundle.manifest.files)
        return loaded

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages as they run, with this run's overrides, in the manifest's order."""
        return (*self._imagine, *(stage for stage in self._act if stage.spec.kind == "act"))

    def warmup(self) -> None:
        """Run every engine once at the sizes of this run, so that the first plan allocates nothing."""
        once = {stage.spec.engines[role].file for stage in self.stages for role in RUN_ONCE & stage.spec.engines.keys()}
        for stage, file in self.engine_files:
            if file not in once:
                self.run_on_zeros(stage, file)

    @property
    def engine_files(self) -> tuple[tuple[Stage, str], ...]:
        """Every stage's engines by file, in the order of the pipeline."""
        return tuple((stage, engine.file) for stage in self.stages for engine in stage.spec.engines.values())

    def run_on_zeros(self, stage: Stage, file: str) -> Mapping[str, Tensor]:
        """Return the outputs of the engine in ``file`` for zeros, at the sizes of ``stage`` in this run."""
        engine, sizes = self._engines[file], batch_sizes(stage.spec)
        outputs = engine.warmup(
            {
                spec.name: tuple(sizes.get(size, 1) if isinstance(size, str) else size for size in spec.shape)
                for spec in engine.spec.inputs
            }
        )
        _leave(engine)
        return outputs

    def imagine(
        self,
        observations: Sequence[Observation],
        instruction: str,
        seed: int,
        profiler: Profiler | None = None,
        progress: Progress = silent,
    ) -> Plan:
        """Return the imagined future of the last observation, the same bits for the same inputs and seed.

        Raises `CameraMismatchError` for a frame of another size, `ConfigError` for an empty or over-long instruction,
        `BundleIncompatibleError` for an unknown one if the bundle has no text encoder.
        """
        context = Context(seed, profiler or Profiler(), progress)
        text = check_instruction(instruction)
        tensors: dict[str, Any] = {"image": self._image(observations[-1]), "instruction": text}
        self._run(self._imagine, tensors, context)
        frames = tensors[self._imagine[-1].spec.output]
        latents = {
            stage.spec.output: np.asarray(self.backend.download(tensors[stage.spec.output]), np.float32)
            for stage in self._imagine
            if stage.spec.kind in ("denoise", "bridge")
        }
        times = np.arange(len(frames)) / self.manifest.input.fps if self.manifest.rates.replan_every else None
        return Plan(frames, times, latents, text, seed)

    def act(
        self,
        plan: Plan,
        observations: Sequence[Observation],
        instruction: str,
        profiler: Profiler | None = None,
        progress: Progress = silent,
    ) -> ActionChunk:
        """Return the actions after the last observation, one per action period, the first one period later."""
        context = Context(plan.seed, profiler or Profiler(), progress)
        text = check_instruction(instruction)
        history = max(self.manifest.rates.history, 1)
        images = [self._image(observation) for observation in list(observations)[-history:]]
        images = [images[0]] * (history - len(images)) + images
        tensors: dict[str, Any] = {"plan": plan.frames, "observations": np.stack(images), "instruction": text}
        self._run(self._act, tensors, context)
        actions = np.asarray(tensors[self._act[-1].spec.output], np.float64)
        contract = self.manifest.action
        times = np.asarray(observations[-1].time_s + contract.period_s * np.arange(1, len(actions) + 1), np.float64)
        spread = tensors.get(f"{self._act[-1].spec.output}_spread")
        return ActionChunk(actions, times, contract.space, spread, observations[-1].time_s)

    def close(self) -> None:
        """Free every engine."""
        self._resources.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, stages: Sequence[Stage], tensors: dict[str, Any], context: Context) -> None:
        for stage in stages:
            context.progress(stage.spec.name, 0, 0)
            with context.profiler.span(stage.spec.name, on=self.backend):
                tensors |= stage.run(tensors, context)
                self.backend.synchronize()  # a stage's time is its own, not the next one's that waits for it
                for engine in stage.engines.values():
                    _leave(engine)

    def _image(self, observation: Observation) -> Tensor:
        contract = self.manifest.input
        if contract.camera not in observation.images:
            raise ConfigError(
                "CAMERA_NAME",
                f"wanted a camera called {contract.camera!r}, got {', '.join(observation.images) or 'none'}",
            )
        return check_image(observation.images[contract.camera], contract.height_px, contract.width_px, contract.camera)

    def _text_encoder(self, specs: Sequence[StageSpec]) -> Callable[[str], FloatArray] | None:
        """Return the stage to embed an instruction, None if the bundle has no text encoder."""
        encoding = [spec for spec in specs if spec.kind == "encode_text" and "encode" in spec.engines]
        return partial(self._encode_text, encoding[0]) if encoding else None

    def _encode_text(self, spec: StageSpec, text: str) -> FloatArray:
        tokens = self.backend.upload(tokenize(self.bundle, text))
        encoded = self._engines[spec.engines["encode"].file].run({"tokens": tokens})["text"]
        check_finite(self.backend, spec.name, "text", encoded)  # before it is kept for other runs
        return np.asarray(self.backend.download(encoded), np.float32)
