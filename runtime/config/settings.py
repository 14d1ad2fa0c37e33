"""The options of the command line, as plain facts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..backends.backend import Backend
from ..backends.compiling import CachingBackend, Compiler, CompilingBackend
from ..bundle.disk import Bundle
from ..cache import Cache
from ..compiled import ShowProgress, compiled_engines, record_in
from ..engine_store import Rebuild
from ..errors import ConfigError, EngineMemoryError
from ..pipeline import Overrides, Pipeline
from ..residency import GB, Residency, plan_residency
from ..seams import SimulatedArm
from ..strict import read_toml
from . import plugins


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The bundle to open, its backend, and the settings of its samplers."""

    bundle: Path | None
    backend: str | None
    threads: int | None
    cache: Path
    overrides: Overrides
    memory_gb: float | None = None
    rebuild: Rebuild = field(default_factory=Rebuild)

    def find(self, instruction: str | None = None) -> Bundle:
        """Return the bundle: the one named, else the one shipped, else the one built in this directory.

        It takes the ``instruction``, if there is one: `ConfigError` comes before anything is opened.
        """
        places = (plugins.shipped(plugins.DEFAULT_BUNDLE), Path("engines") / plugins.DEFAULT_BUNDLE)
        if self.backend is not None:
            plugins.backend_facts(self.backend)  # an unknown name is told before a missing bundle
        return plugins.find_bundle(self.bundle, self.backend, places, instruction)

    @contextmanager
    def open(self, show: ShowProgress, bundle: Bundle | None = None) -> Iterator[Pipeline]:
        """Open the engines of ``bundle``, or of `find`'s; ``show`` shows a compilation."""
        bundle = bundle or self.find()
        backend = plugins.open_backend(self.backend or bundle.manifest.backend, self.threads)
        residency = Residency((), ())
        if self.memory_gb is not None:
            library = plugins.memory_use(bundle.manifest, self.backend)
            residency = plan_residency(bundle.manifest, self.memory_gb * GB, library)
        engines = self._compiled(bundle, backend, show)
        if isinstance(backend, CachingBackend):
            backend.keep_in(Cache.at(self.cache))
        if whole := [file for file in residency.streamed if not record_in(bundle, engines[file]).building.streamed]:
            raise EngineMemoryError(
                "MEMORY_STREAM",
                f"{', '.join(whole)} would fit into {self.memory_gb:g} GB with weights from the host's memory; compile it so "
                "with `dvgwm-runtime compile --streamed`",
            )
        with Pipeline(bundle, backend, self.cache, self.overrides, residency.evicted, engines) as pipeline:
            yield pipeline

    def compile(self, show: ShowProgress, choices: Mapping[str, Any]) -> tuple[Bundle, Mapping[str, Path]]:
        """Return the bundle and the engine of each of its graphs, compiled with these ``choices`` if it is not there yet.

        Raises as `open`. No GPU is looked for if the compiler needs none.
        """
        bundle = self.find()
        compiler = plugins.open_compiler(self.backend or bundle.manifest.backend, self.threads)
        building = replace(compiler.usual(bundle.manifest.precision), **choices)
        rebuild = Rebuild(True, building, exactly=True)
        return bundle, self._engines(bundle, compiler, show, rebuild)

    def _compiled(self, bundle: Bundle, backend: Backend, show: ShowProgress) -> Mapping[str, Path]:
        """Return the engines compiled for the bundle; none if the backend runs graphs as they are.

        Raises `ConfigError` if such a backend is asked to compile.
        """
        if isinstance(backend, CompilingBackend):
            return self._engines(bundle, backend.compiler, show, self.rebuild)
        if self.rebuild.asked:
            raise plugins.compiles_nothing(backend)
        return {}

    def _engines(self, bundle: Bundle, compiler: Compiler, show: ShowProgress, rebuild: Rebuild) -> Mapping[str, Path]:
        stages = [self.overrides.applied(stage) for stage in bundle.manifest.pipeline]
        folder, key = self.cache / "engines", Cache.at(self.cache).key
        return compiled_engines(bundle, stages, compiler, folder, show, rebuild, key)


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """Episodes on a simulated robot. By default the task's instruction and the bundle's rate of planning hold."""

    robot: str
    seed: int
    max_actions: int
    plan_time: str
    engines: EngineSettings
    task: str | None = None
    instruction: str | None = None
    execute: int | None = None
    out: Path | None = None
    gif: Path | None = None
    process: bool = False
    limits: Path | None = None

    def chosen_task(self, tasks: Sequence[str]) -> str:
        """Return the task to simulate, ``task`` or ``task:object``; raises `ConfigError` with the names of all tasks."""
        if self.task is not None and self.task.split(":")[0] not in tasks:
            raise ConfigError("TASK_UNKNOWN", f"{self.robot} has no task {self.task!r}; known: {', '.join(tasks)}")
        return self.task or tasks[0]

    def plan_clock(self, arm: SimulatedArm) -> Callable[[float], None]:
        """Return the virtual clock's answer to a plan of so many wall seconds; a real clock needs none."""
        if self.process or self.plan_time == "frozen":
            return lambda seconds: None
        if self.plan_time == "measured":
            return arm.hold
        return lambda seconds: arm.hold(float(self.plan_time))


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """An episode on a real robot at the address ``arm``; ``dry_run``: nothing is sent, ``approve``: plans wait for a yes.

    ``unfamiliar``: also with words or pictures new to the bundle.
    """

    robot: str
    arm: str
    camera: str
    instruction: str
    seed: int
    max_actions: int
    engines: EngineSettings
    arm_settings: Path | None = None
    execute: int | None = None
    out: Path | None = None
    gif: Path | None = None
    limits: Path | None = None
    dry_run: bool = False
    approve: bool = False
    unfamiliar: bool = False

    def driver_settings(self) -> dict[str, Any]:
        """Return what the driver's settings file says; raises `ConfigError` where it cannot be read."""
        return _driver_settings(self.arm_settings)


@dataclass(frozen=True, slots=True)
class ReadinessSettings:
    """The parts to look at before a robot is driven; None is left out. ``config`` is the file of defaults, in words."""

    robot: str
    engines: EngineSettings
    arm: str | None = None
    arm_settings: Path | None = None
    camera: str | None = None
    limits: Path | None = None
    config: str = ""

    def driver_settings(self) -> dict[str, Any]:
        """Return what the driver's settings file says; raises `ConfigError` where it cannot be read."""
        return _driver_settings(self.arm_settings)


@dataclass(frozen=True, slots=True)
class CompilingSettings:
    """Engines to compile, and the options that were given: see `backends.compiling.Building`."""

    engines: EngineSettings
    workspace_gb: float | None = None
    runs_on: str | None = None
    refit: bool | None = None
    streamed: bool | None = None
    level: int | None = None
    capabilities: tuple[str, ...] | None = None

    @property
    def choices(self) -> dict[str, Any]:
        """The options that were given, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "engines"}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RecordingSettings:
    """A plan from a recording, without an arm; for ``robot`` the actions are shown as its joints, too."""

    camera: str | None
    at_s: float
    instruction: str | None
    seed: int
    out: Path | None
    gif: Path | None
    engines: EngineSettings
    robot: str | None = None
    limits: Path | None = None


T = TypeVar("T", SimulationSettings, LiveSettings, RecordingSettings, ReadinessSettings, CompilingSettings)


def settings(kind: type[T], options: Mapping[str, Any], cache: Path) -> T:
    """Return the settings in command-line ``options``; ``cache`` is the default place for prompts."""

    def own(facts: Any) -> dict[str, Any]:
        return {field.name: options[field.name] for field in fields(facts) if field.name in options}

    cache = options["cache_dir"] or cache
    engines = EngineSettings(
        options["bundle"],
        options["backend"],
        options["threads"],
        cache,
        Overrides(**own(Overrides)),
        options["memory_gb"],
        Rebuild(asked=options.get("rebuild", False)),
    )
    return kind(**own(kind), engines=engines)


def _driver_settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return read_toml(path)
    except OSError as error:
        raise ConfigError("ARM_SETTINGS", f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError("ARM_SETTINGS", f"{path}: {error}; wanted TOML (docs/robots.md)") from error
