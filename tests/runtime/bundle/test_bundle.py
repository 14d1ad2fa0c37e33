"""Every way in which a bundle can be wrong has its own error, exit code and log code."""

import json
import os
from pathlib import Path

import pytest

from dvgwm.runtime.backends.host import HostBackend
from dvgwm.runtime.bundle.disk import read_bundle, write_bundle
from dvgwm.runtime.bundle.manifest import dump, parse
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.errors import BundleCorruptError, ConfigError, DvgwmError, RecordingError
from dvgwm.runtime.pipeline import Pipeline


def edit(path: Path, **changes) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.update(changes)
    (path / "manifest.json").write_text(json.dumps(manifest))


def relist(path: Path, name: str) -> None:
    """Make the manifest agree with what is on disk, as a forger would."""
    import hashlib

    manifest = json.loads((path / "manifest.json").read_text())
    data = (path / name).read_bytes()
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


def drop_file(path):
    (path / "refine.onnx").unlink()


def add_file(path):
    (path / "extra.onnx").write_bytes(b"\x08")


def flip_bit(path):
    data = bytearray((path / "refine.onnx").read_bytes())
    data[-1] ^= 1
    (path / "refine.onnx").write_bytes(data)


def truncate(path):
    (path / "refine.onnx").write_bytes((path / "refine.onnx").read_bytes()[:-1])


def link(path):
    (path / "refine.onnx").rename(path.parent / "elsewhere.onnx")
    (path / "refine.onnx").symlink_to(path.parent / "elsewhere.onnx")


def hard_link(path):
    os.link(path / "refine.onnx", path.parent / "twin.onnx")


def fifo(path):
    (path / "refine.onnx").unlink()
    os.mkfifo(path / "refine.onnx")


def pickled(path):
    (path / "refine.onnx").write_bytes(b"\x80\x04\x95pickle")
    relist(path, "refine.onnx")


def zipped(path):
    (path / "refine.onnx").write_bytes(b"PK\x03\x04torch")
    relist(path, "refine.onnx")


def external(path):
    entry = b"\x0a\x08location\x12\x0d../etc/passwd"
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (path / "refine.onnx").write_bytes(b"\x08\x0a\x3a" + bytes([len(graph)]) + graph)
    relist(path, "refine.onnx")


def torn_graph(path):
    (path / "refine.onnx").write_bytes(b"\x08\x0a....\x0a\x08location\x12\x0d../etc/passwd")
    relist(path, "refine.onnx")


def escape(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../outside.onnx"] = manifest["files"]["refine.onnx"]
    edit(path, files=manifest["files"])


def wrong_suffix(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "code.py").write_text("print()")
    manifest["files"]["code.py"] = {"size": 7, "sha256": "0" * 64}
    edit(path, files=manifest["files"])


def engine_unlisted(path):
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["files"]["refine.onnx"]
    edit(path, files=manifest["files"])


def bad_wiring(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["pipeline"][3]["inputs"]["image"] = "nothing"
    edit(path, pipeline=manifest["pipeline"])


def bad_kind(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["pipeline"][3]["kind"] = "dream"
    edit(path, pipeline=manifest["pipeline"])


def nested_unknown(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["pipeline"][3]["engines"]["denoise"]["plugin"] = "evil.so"
    edit(path, pipeline=manifest["pipeline"])


def bad_sampler(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["pipeline"][3]["sampler"]["kind"] = "magic"
    edit(path, pipeline=manifest["pipeline"])


WRONG = {
    "absent": (lambda path: (path / "manifest.json").unlink(), 10, "BUNDLE_MISSING"),
    "file absent": (drop_file, 10, "BUNDLE_FILE_MISSING"),
    "file unlisted": (add_file, 10, "BUNDLE_FILE_UNLISTED"),
    "bit flipped": (flip_bit, 11, "BUNDLE_HASH"),
    "truncated": (truncate, 11, "BUNDLE_SIZE"),
    "no json": (lambda path: (path / "manifest.json").write_text("{"), 11, "MANIFEST_JSON"),
    "deep json": (lambda path: (path / "manifest.json").write_text("[" * 100_000), 11, "MANIFEST_JSON"),
    "manifest a list": (lambda path: (path / "manifest.json").write_text("[]"), 12, "MANIFEST_SCHEMA"),
    "other schema": (lambda path: edit(path, schema=99), 12, "MANIFEST_SCHEMA"),
    "wrong type": (lambda path: edit(path, precision=7), 11, "MANIFEST_FIELD"),
    "unknown key": (lambda path: edit(path, extra=1), 11, "MANIFEST_KEY"),
    "nested unknown key": (nested_unknown, 11, "MANIFEST_KEY"),
    "unknown sampler": (bad_sampler, 11, "MANIFEST_FIELD"),
    "engine not among the files": (engine_unlisted, 11, "STAGE_FILE"),
    "wiring": (bad_wiring, 11, "STAGE_WIRING"),
    "stage kind": (bad_kind, 12, "STAGE_KIND"),
    "other backend": (lambda path: edit(path, backend="tensorrt"), 12, "BUNDLE_BACKEND"),
    "symbolic link": (link, 13, "BUNDLE_LINK"),
    "hard link": (hard_link, 13, "BUNDLE_LINK"),
    "fifo": (fifo, 13, "BUNDLE_LINK"),
    "pickle": (pickled, 13, "BUNDLE_PICKLE"),
    "zip": (zipped, 13, "BUNDLE_PICKLE"),
    "external data": (external, 13, "BUNDLE_EXTERNAL"),
    "external data in a torn graph": (torn_graph, 11, "BUNDLE_GRAPH"),
    "path escape": (escape, 13, "BUNDLE_NAME"),
    "source code": (wrong_suffix, 13, "BUNDLE_NAME"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(make_bundle, case):
    path = make_bundle().path
    spoil, exit_code, log_code = WRONG[case]
    spoil(path)
    with pytest.raises(DvgwmError) as caught:
        read_bundle(path, "fake")
    assert (caught.value.exit_code, caught.value.log_code) == (exit_code, log_code)
    assert "\n" not in caught.value.line


def swapped(path, name):
    os.replace(path / name, path / "aside")
    (path / name).write_bytes((path / "aside").read_bytes())
    (path / "aside").unlink()


def written(path, name):
    data = (path / name).read_bytes()
    (path / name).write_bytes(b"\0" * len(data))
    (path / name).write_bytes(data)


@pytest.mark.parametrize("name", ["refine.onnx", "policy.onnx"])
@pytest.mark.parametrize("change", [swapped, written, lambda path, name: (path / name).unlink()])
def test_a_file_that_changes_while_it_is_loaded_is_refused_though_its_bytes_are_the_same(make_bundle, change, name):
    bundle = make_bundle()
    fake, loaded = open_backend("fake", None), []

    def load(path, spec):
        loaded.append(spec.file)
        engine = fake.load(path, spec)
        if spec.file == name:
            change(path.parent, name)
        return engine

    with pytest.raises(BundleCorruptError) as caught:
        Pipeline(bundle, HostBackend("fake", load))
    assert (caught.value.log_code, caught.value.exit_code) == ("BUNDLE_CHANGED", 11)
    assert name in loaded
    assert name in str(caught.value)


def test_every_truncation_and_bit_of_the_manifest_is_refused_or_the_same(make_bundle):
    path = make_bundle().path
    data = (path / "manifest.json").read_bytes()
    for end in range(0, len(data) - 2, 97):
        (path / "manifest.json").write_bytes(data[:end])
        with pytest.raises(DvgwmError):
            read_bundle(path)


def test_sound_bundle_reads_back_equal(make_bundle):
    bundle = make_bundle()
    again = read_bundle(bundle.path, "fake")
    assert again == bundle
    assert parse(dump(bundle.manifest)) == bundle.manifest


def test_no_directory_and_a_plain_file_are_missing(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(DvgwmError) as caught:
            read_bundle(path)
        assert caught.value.exit_code == 10


def test_writing_replaces_a_bundle_whole_and_nothing_else(make_bundle, tmp_path):
    bundle = make_bundle()
    sources = {name: tmp_path / "sources" / name for name in bundle.manifest.files}
    write_bundle(bundle.path, bundle.manifest, sources)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bundle", "sources"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(ConfigError):
        write_bundle(tmp_path / "mine", bundle.manifest, sources)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "all of it"


def test_a_failed_write_keeps_the_old_bundle_and_leaves_nothing(make_bundle, tmp_path):
    bundle = make_bundle()
    sources = {name: tmp_path / "sources" / name for name in bundle.manifest.files}
    sources["refine.onnx"] = tmp_path / "gone.onnx"
    with pytest.raises(RecordingError):
        write_bundle(bundle.path, bundle.manifest, sources)
    assert read_bundle(bundle.path) == bundle
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bundle", "sources"]
