"""The proof's part `lora`: other weights put into existing engines."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from bench import Found, ProvenBundle
from comparison import compared

from dvgwm.runtime.bundle.disk import Bundle, put_bundle, read_bundle
from dvgwm.runtime.engine_store import record_of


def lora(bench: ProvenBundle) -> Found:
    """Put other weights into the existing engines, and hold them against the changed graphs."""
    backend = bench.open(bench.backend)
    before = bench.engines(backend)
    other = changed(bench.bundle, bench.work / "lora")
    after = bench.engines(backend, other)
    records = {file: record_of(path) for file, path in after.items() if path != before[file]}
    taken = {file: record.refitted for file, record in records.items()}
    seconds = {file: (record.seconds, record_of(before[file]).seconds) for file, record in records.items()}
    facts, fine, told = compared(bench, other, backend, after)
    facts |= {"refitted": taken, "seconds_now_and_first": seconds}
    wrong = [file for file, fitted in taken.items() if not fitted]
    told = (
        f"{', '.join(wrong)} had to be compiled again; {told}"
        if wrong
        else f"{', '.join(taken)} took other weights; {told}"
    )
    return facts, fine and not wrong and bool(taken), told


def changed(bundle: Bundle, place: Path, share: float = 1.02) -> Bundle:
    """Return a copy of the bundle at ``place``, all matrices of its preview's graph times ``share``."""
    names = bundle.weights_of("preview.onnx")
    shutil.rmtree(place, ignore_errors=True)
    files = {name: bundle.path / name for name in bundle.manifest.files}
    place.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        tensors = safetensors.numpy.load_file(bundle.path / name)
        scaled = {
            key: (array * array.dtype.type(share)) if array.ndim == 2 else array for key, array in tensors.items()
        }
        files[name] = place.with_name(f"changed.{name}")
        _same_layout(bundle.path / name, files[name], scaled)
    put_bundle(place, bundle.manifest, files, link=False)
    for name in names:
        files[name].unlink()
    return read_bundle(place)


def _same_layout(original: Path, target: Path, tensors: Mapping[str, Any]) -> None:
    """Write ``tensors`` at their offsets in the file ``original``: a graph refers to bytes, not to names."""
    data = bytearray(original.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for key, array in tensors.items():
        begin, end = (8 + length + at for at in header[key]["data_offsets"])
        data[begin:end] = np.ascontiguousarray(array).tobytes()
    target.write_bytes(data)
