"""The bundle under measurement, and where results go."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from dvgwm.runtime.bundle.disk import Bundle, read_bundle
from dvgwm.runtime.config.plugins import open_backend, shipped
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import Observation

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="append the figures to benchmarks/results/")


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Append one row to benchmarks/results/cpu.jsonl where --record is given."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    # The rows themselves are no change of the code.
    changes = [*git, "status", "--porcelain", "--", "..", ":!results"]
    dirty = subprocess.run(changes, capture_output=True, text=True, check=False).stdout.strip()
    facts = {
        "commit": (head.stdout.strip() + ("-dirty" if dirty else "")) or None,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": None,
        "python": platform.python_version(),
        **{name: installed(name) for name in ("numpy", "onnxruntime", "torch", "diffusers")},
    }

    def append(name: str, **figures: object) -> None:
        if request.config.getoption("--record"):
            with (HERE / "results" / "cpu.jsonl").open("a") as file:
                file.write(json.dumps({"name": name, **figures, **facts}) + "\n")

    return append


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """engines/a1_tiny where it was built, else the shipped one, else one built now."""
    for ready in (HERE.parent / "engines" / "a1_tiny", shipped("a1_tiny")):
        if (ready / "manifest.json").is_file():
            return read_bundle(ready, "onnx")
    building = pytest.importorskip("dvgwm.export.assembly", reason="no engines/a1_tiny and no export extra to build it")
    from dvgwm.export.order import STEPS, Order

    order = Order("a1_tiny", "onnx", tmp_path_factory.mktemp("engines") / "a1_tiny", 0, STEPS[:3])
    return building.build_bundle(order, lambda *_: None).bundle


@pytest.fixture(scope="session")
def pipeline(bundle: Bundle) -> Iterator[Pipeline]:
    with Pipeline(bundle, open_backend("onnx", None)) as opened:
        yield opened


@pytest.fixture(scope="session")
def instruction() -> str:
    return "put the banana into the bowl"


@pytest.fixture(scope="session")
def observation(bundle: Bundle) -> Observation:
    contract = bundle.manifest.input
    image = np.random.default_rng(0).integers(0, 256, (contract.height_px // 8, contract.width_px // 8, 3), np.uint8)
    return Observation({contract.camera: image.repeat(8, 0).repeat(8, 1)}, np.zeros(7), 0.0)
