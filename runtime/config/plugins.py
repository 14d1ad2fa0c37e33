"""Robots, arms and backends by name, through entry points: others add theirs without a fork."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..backends.backend import Backend
from ..backends.compiling import Compiler, CompilingBackend
from ..backends.facts import GPU_MEMORY, BackendFacts, MemoryUse
from ..bundle.disk import MANIFEST, Bundle, read_bundle, read_manifest
from ..bundle.manifest import Manifest
from ..bundle.tokenizer import check_bytes, check_instruction, tokenize
from ..entries import broken, find, load, names
from ..errors import BundleMissingError, ConfigError
from ..pipeline import Pipeline
from ..seams import Camera, LiveArm, RobotSpec, SimulatedArm, Simulation
from ..types import ActionChunk, Observation, PlannedJoints

DEFAULT_BUNDLE = "a1_tiny"


def shipped(name: str) -> Path:
    """Return the place of the bundle called ``name`` in the installed package; it may be missing."""
    return Path(__file__).parents[1] / "bundles" / name


def open_backend(name: str, threads: int | None) -> Backend:
    """Return the backend called ``name``; raises `ConfigError` if it, its library or so many ``threads`` are missing."""
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise ConfigError("THREADS", f"wanted 1 to {cores} threads, as many as this machine has cores, got {threads}")
    facts = backend_facts(name)
    try:
        return facts.open(threads)
    except ImportError as error:
        raise missing_library(facts, error) from error


def backend_facts(name: str) -> BackendFacts:
    """Return the facts of the backend called ``name``; raises `ConfigError` if there is none. Its library is not imported."""
    found: BackendFacts = load("backends", name)
    if not isinstance(found, BackendFacts):
        raise broken("backends", find("backends", name), f"states no facts: it is a {type(found).__name__}")
    return found


def missing_library(facts: BackendFacts, error: ImportError) -> ConfigError:
    """Return the error of a backend whose library cannot be imported."""
    needed = f"{facts.name} needs a library that is not installed ({error})"
    return ConfigError("BACKEND_MISSING", f"{needed}; pip install 'dvgwm[{facts.extra}]'")


def open_compiler(name: str, threads: int | None) -> Compiler:
    """Return the compiler of the backend called ``name``; raises `ConfigError` as `open_backend`, or if it has none."""
    facts = backend_facts(name)
    if facts.ahead is not None:
        try:
            return facts.ahead()
        except ImportError as error:
            raise missing_library(facts, error) from error
    backend = open_backend(name, threads)
    if isinstance(backend, CompilingBackend):
        return backend.compiler
    raise compiles_nothing(backend)


def compiles_nothing(backend: Backend) -> ConfigError:
    """Return the error of a compilation with a backend of graphs."""
    wanted = " or ".join(name for name in names("backends") if backend_facts(name).sizes_are_fixed)
    return ConfigError(
        "BACKEND_COMPILE", f"{backend.name} runs what is in the bundle and compiles nothing; wanted --backend {wanted}"
    )


def memory_use(manifest: Manifest, backend: str | None = None) -> MemoryUse:
    """Return how the library of ``backend`` uses memory (None: of the backend that the bundle was built for).

    A bundle for a backend that is not installed is taken to be a GPU's.
    """
    name = backend or manifest.backend
    return backend_facts(name).memory if name in names("backends") else GPU_MEMORY


def load_robot(name: str, limits: Path | None = None) -> RobotSpec:
    """Return the robot called ``name``, its limits tightened by the file ``limits``.

    Raises `ConfigError` with the names of all robots, or the file's fault.
    """
    spec: RobotSpec = load("arm", "load_robot")(name)
    if limits is None:
        return spec
    tight: RobotSpec = load("arm", "tightened")(spec, limits)
    return tight


def simulation_of(spec: RobotSpec) -> Simulation:
    """Return the robot's simulation; raises `ConfigError` if it has none."""
    if spec.simulation is None:
        raise ConfigError("ROBOT_UNSIMULATED", f"{spec.name} is not simulated; --live --arm ADDRESS drives a real one")
    return spec.simulation


def open_simulation(
    spec: RobotSpec,
    task: str,
    seed: int,
    pipeline: Pipeline,
    on_frame: Callable[[Observation, Any], None] | None = None,
    process: bool = False,
) -> SimulatedArm:
    """Return the robot at ``task``, simulated behind motion and gate, its camera of the bundle's size.

    With ``process`` motion, gate and physics are a process of their own, in real time; else all is on a virtual clock.
    """
    size_px = {"height_px": pipeline.manifest.input.height_px, "width_px": pipeline.manifest.input.width_px}
    opened = load("arm", "open_mirrored_arm" if process else "open_arm")
    arm: SimulatedArm = opened(spec, task=task, seed=seed, on_frame=on_frame, **size_px)
    return arm


def open_live(
    spec: RobotSpec,
    address: str,
    settings: Mapping[str, Any],
    camera: Camera,
    camera_name: str,
    dry_run: bool,
    on_frame: Callable[[Observation, Any], None] | None = None,
) -> LiveArm:
    """Return the real robot at ``address``, locked, seen by ``camera``; raises as `dvgwm.robots.live.open_live_arm`."""
    seen = {"camera": camera, "camera_name": camera_name, "on_frame": on_frame}
    arm: LiveArm = load("arm", "open_live_arm")(spec, address=address, settings=settings, dry_run=dry_run, **seen)
    return arm


def planned_joints(spec: RobotSpec, chunk: ActionChunk) -> PlannedJoints:
    """Return the joints for the actions of ``chunk``, of a robot at no known pose."""
    planned: PlannedJoints = load("arm", "planned_joints")(spec, chunk)
    return planned


def find_bundle(
    path: Path | None, backend: str | None, places: tuple[Path, ...], instruction: str | None = None
) -> Bundle:
    """Return the bundle at ``path``, or else the first one in ``places``; raises as `read_bundle`.

    ``backend`` and ``instruction`` refuse a bundle unfit for them; instructions in bytes before its files are read.
    """
    text = None if instruction is None else check_instruction(instruction)
    if path is None:
        path = next((place for place in places if (place / "manifest.json").is_file()), None)
    if path is None:
        looked = " and ".join(str(place) for place in places)
        raise BundleMissingError(
            "BUNDLE_MISSING",
            f"no bundle given and none at {looked}; build it with `python export/build_engines.py` "
            "(needs pip install 'dvgwm[export]') or name one with --bundle",
        )
    if text is not None and (path / MANIFEST).is_file():
        check_bytes(read_manifest(path).text, text)
    bundle = read_bundle(path, None if backend is None else backend_facts(backend).runs)
    if text is not None:
        tokenize(bundle, text)
    return bundle
