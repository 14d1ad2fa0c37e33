"""The proof's subject: the bundle, its libraries, the places of engines and rows."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from dvgwm.runtime.backends.backend import Backend
from dvgwm.runtime.backends.compiling import CompilingBackend
from dvgwm.runtime.bundle.disk import Bundle, read_bundle
from dvgwm.runtime.cache import Cache
from dvgwm.runtime.commands.line import cache_dir
from dvgwm.runtime.compiled import compiled_engines
from dvgwm.runtime.config import plugins
from dvgwm.runtime.engine_store import Rebuild

Found = tuple[dict[str, Any], bool, str]
"""What a part found, whether that is as it has to be, and a line that says so."""


@dataclass(frozen=True)
class ProvenBundle:
    """The proof's subject: a bundle, a way to open its backends, the places of engines and rows."""

    bundle: Bundle
    open: Callable[[str], Backend]
    cache: Path
    work: Path
    out: Path
    rounds: int
    key: str
    backend: str = "tensorrt"

    @classmethod
    def here(cls, place: Path | None, rounds: int, out: Path, work_in: Path, name: str) -> "ProvenBundle":
        """Return the subject on this machine, by the backend ``name``; its key is of this code, this bundle and this GPU."""
        bundle = read_bundle(place or plugins.shipped("a1_tiny"), "onnx")
        backend = plugins.open_backend(name, None)
        assert isinstance(backend, CompilingBackend)
        key = key_of(bundle, {**backend.fingerprint, **backend.compiler.facts})
        opened = partial(plugins.open_backend, threads=None)
        return cls(bundle, opened, cache_dir() / "engines", work_in, out, rounds, key, name)

    def engines(self, backend: Backend, bundle: Bundle | None = None) -> Mapping[str, Path]:
        """Return the engines of the bundle, compiled if they are not there yet."""
        if not isinstance(backend, CompilingBackend):
            return {}
        of = bundle or self.bundle
        stages, key = of.manifest.pipeline, Cache.at(self.cache.parent).key
        return compiled_engines(of, stages, backend.compiler, self.cache, _printed, Rebuild(asked=True), key)


@contextmanager
def _printed(room: str) -> Any:
    print(f"         {room}" if room else "", end="\n" if room else "", flush=True)

    def report(file: str, phase: str, done: int, steps: int, index: int, total: int) -> None:
        if done == 0:
            print(f"         {file} ({index + 1} of {total}): {phase}", flush=True)

    yield report


def key_of(bundle: Bundle, facts: Mapping[str, str]) -> str:
    """Return a hash of the code of runtime and proof, of the bundle and of the machine."""
    digest = hashlib.sha256(json.dumps([dict(facts), {n: r.sha256 for n, r in bundle.manifest.files.items()}]).encode())
    runtime = Path(str(resources.files("dvgwm.runtime")))
    own = (*runtime.glob("*.py"), *(runtime / "backends").rglob("*.py"), *Path(__file__).parent.glob("*.py"))
    for path in sorted(own):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
