"""Bundles on disk: a directory, verified as a whole before anything in it is parsed."""

import hashlib
import mmap
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path

from ..errors import (
    BundleCorruptError,
    BundleIncompatibleError,
    BundleMissingError,
    BundleUntrustedError,
    DvgwmError,
    RecordingError,
)
from ..files import whole_directory, write_atomic
from .external import external_files
from .manifest import FileRecord, Manifest, dump, parse

MANIFEST = "manifest.json"
REBUILD = "rebuild it with `python export/build_engines.py`"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SUFFIXES = (".onnx", ".data", ".safetensors", ".json", ".plan", ".pt2")
_MANIFEST_BYTES = 1 << 20
# Pickle's protocol header and its text opcodes, zip (torch.save) and numpy's object container: never in a bundle.
_EXECUTABLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x93NUMPY", b"\x7fELF")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: its directory, its manifest, and how its files stood when their bytes were verified."""

    path: Path
    manifest: Manifest
    verified: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    def file(self, name: str) -> Path:
        """Return the path of a listed file."""
        if name not in self.manifest.files:
            raise BundleMissingError("BUNDLE_FILE", f"{self.path}: {name!r} is not in the manifest; {REBUILD}")
        return self.path / name

    def weights_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the weights' files of the ONNX graph ``name``."""
        with self.file(name).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return tuple(sorted(external_files(data)))

    def check_unchanged(self, names: Iterable[str]) -> None:
        """Raise `BundleCorruptError` if one of these files is another one, or was written to, since it was verified.

        Called after they were loaded: the loaded bytes are then the verified ones.
        """
        for name in self.verified.keys() & set(names):
            try:
                now = _standing(os.stat(self.path / name, follow_symlinks=False))
            except OSError:
                now = ()
            if now != self.verified[name]:
                raise BundleCorruptError(
                    "BUNDLE_CHANGED", f"{self.path / name} changed while it was loaded; find out who writes there"
                )


def _standing(status: os.stat_result) -> tuple[int, ...]:
    """Return a key of a file; it changes after any write to it, or another file in its place."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_bundle(path: Path, backend: str | None = None) -> Bundle:
    """Return the bundle at ``path`` after checking every byte of it.

    Raises `BundleMissingError` (10), `BundleCorruptError` (11), `BundleIncompatibleError` (12, also if it was built for
    another backend than ``backend``) or `BundleUntrustedError` (13).
    """
    try:
        return _read(path, backend)
    except DvgwmError:
        raise
    except OSError as error:
        raise BundleMissingError("BUNDLE_UNREADABLE", f"{path}: {error.strerror}; check its permissions") from None


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the bundle at ``path``, none of its files looked at; raises as `read_bundle`."""
    if not (path / MANIFEST).is_file():
        raise BundleMissingError(
            "BUNDLE_MISSING",
            f"wanted a bundle at {path}, found {'no manifest.json' if path.is_dir() else 'no such directory'}; "
            "build one with `python export/build_engines.py`",
        )
    with _open_regular(path / MANIFEST) as file:
        data = file.read(_MANIFEST_BYTES + 1)
    if len(data) > _MANIFEST_BYTES:
        raise BundleCorruptError("MANIFEST_SIZE", f"{path / MANIFEST} is over {_MANIFEST_BYTES} bytes; {REBUILD}")
    return parse(data)


def _read(path: Path, backend: str | None) -> Bundle:
    manifest = read_manifest(path)
    if backend is not None and manifest.backend != backend:
        raise BundleIncompatibleError(
            "BUNDLE_BACKEND",
            f"{path} was built for the {manifest.backend} backend, wanted {backend}; rebuild with "
            f"`python export/build_engines.py --preset {manifest.model.preset} --backend {backend}`",
        )
    _check_names(path, manifest)
    verified = {name: _check_file(path / name, record, manifest) for name, record in manifest.files.items()}
    return Bundle(path, manifest, verified)


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, Path]) -> Bundle:
    """Return the bundle written to ``path`` from copies of ``files`` (name to source); as `put_bundle`."""
    put_bundle(path, manifest, files, link=False)
    return read_bundle(path)


def put_bundle(path: Path, manifest: Manifest, files: Mapping[str, Path], link: bool) -> None:
    """Write a bundle to ``path`` from ``files`` (name to source), whole or not at all.

    With ``link`` its files are the sources under a second name, if both are on one disk: once they have lost the first, the
    bundle can be read. The manifest's own ``files`` are filled in here and it is written last. An older bundle at
    ``path`` is replaced; any other content there is left alone. Raises as `files.whole_directory`.
    """
    with whole_directory(path, MANIFEST, "bundle") as staging:
        try:
            for name, source in files.items():
                _put(source, staging / name, link)
        except OSError as error:
            raise RecordingError("BUNDLE_WRITE", f"cannot write the bundle {path}: {error}") from error
        records = {name: record_of(staging / name) for name in sorted(files)}
        write_atomic(staging / MANIFEST, dump(replace(manifest, files=records)))


def _put(source: Path, target: Path, link: bool) -> None:
    if link:
        with suppress(OSError):  # another disk
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def record_of(path: Path) -> FileRecord:
    """Return size and sha256 of the file at ``path``."""
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _check_names(path: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if not _NAME.fullmatch(name) or not name.endswith(_SUFFIXES) or name == MANIFEST:
            raise BundleUntrustedError(
                "BUNDLE_NAME", f"{path}: {name!r} is no plain file name ending in {', '.join(_SUFFIXES)}; {REBUILD}"
            )
    present = {entry.name for entry in path.iterdir()} - {MANIFEST}
    if missing := sorted(set(manifest.files) - present):
        raise BundleMissingError("BUNDLE_FILE_MISSING", f"{path}: listed but absent: {', '.join(missing)}; {REBUILD}")
    if extra := sorted(present - set(manifest.files)):
        raise BundleMissingError(
            "BUNDLE_FILE_UNLISTED", f"{path}: not in the manifest: {', '.join(extra)}; remove them"
        )


def _check_file(path: Path, record: FileRecord, manifest: Manifest) -> tuple[int, ...]:
    """Return how the file stood before its bytes were verified."""
    with _open_regular(path) as file:
        standing = _standing(os.fstat(file.fileno()))
        if (size := os.fstat(file.fileno()).st_size) != record.size:
            raise BundleCorruptError("BUNDLE_SIZE", f"{path}: wanted {record.size} bytes, got {size}; {REBUILD}")
        if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
            raise BundleCorruptError("BUNDLE_HASH", f"{path}: its sha256 differs from the manifest's; {REBUILD}")
        file.seek(0)
        if file.read(8).startswith(_EXECUTABLE) and path.suffix != ".pt2":
            raise BundleUntrustedError(
                "BUNDLE_PICKLE", f"{path} carries executable content; use bundles you trust only"
            )
        if path.suffix == ".onnx" and record.size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_external_data(path, data, manifest)
    return standing


def _check_external_data(path: Path, data: mmap.mmap, manifest: Manifest) -> None:
    """Raise `BundleUntrustedError` for a graph with weights in an unlisted file, `BundleCorruptError` if its files are unknown.

    Other damage is for the engine's library to find.
    """
    try:
        outside = sorted(external_files(data) - set(manifest.files))
    except ValueError as error:
        if data.find(b"location") < 0:
            return
        raise BundleCorruptError("BUNDLE_GRAPH", f"{path} is no ONNX graph: {error}; {REBUILD}") from None
    if outside:
        raise BundleUntrustedError("BUNDLE_EXTERNAL", f"{path} reads {outside[0]!r}, outside the bundle; {REBUILD}")


def _open_regular(path: Path) -> BufferedReader:
    """Return an open regular file of one name; links and devices are refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise BundleUntrustedError(
                "BUNDLE_LINK", f"{path} is a link; copy the file itself into the bundle"
            ) from None
        raise BundleMissingError("BUNDLE_UNREADABLE", f"{path}: {error.strerror}; check its permissions") from None
    file = os.fdopen(descriptor, "rb")
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        file.close()
        raise BundleUntrustedError("BUNDLE_LINK", f"{path} is not a plain file with one name; copy it into the bundle")
    return file
