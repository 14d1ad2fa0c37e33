"""A stopped build goes on where it was: nothing is made twice and nothing half-made is taken."""

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

from dvgwm.export.workshop import Workshop

pytestmark = pytest.mark.torch


def make(path):
    path.write_bytes(b"graph")


def refuse(path):
    raise AssertionError("made again")


def test_a_finished_product_is_reused(tmp_path):
    first, new = Workshop.open(tmp_path / "w", ["facts"]).product("a.onnx", make)
    again, newer = Workshop.open(tmp_path / "w", ["facts"]).product("a.onnx", refuse)
    assert (new, newer) == (True, False)
    assert first == again


def test_other_facts_start_afresh(tmp_path):
    Workshop.open(tmp_path / "w", ["facts"]).product("a.onnx", make)
    _, new = Workshop.open(tmp_path / "w", ["other"]).product("a.onnx", make)
    assert new


def test_what_was_stopped_halfway_or_spoiled_is_made_again(tmp_path):
    work = Workshop.open(tmp_path / "w", ["facts"])

    def stop(path):
        path.write_bytes(b"gr")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.product("a.onnx", stop)
    assert not (tmp_path / "w" / "a.onnx").exists()
    path, new = work.product("a.onnx", make)
    assert new
    path.write_bytes(b"spoiled")
    _, new = work.product("a.onnx", make)
    assert new
    (tmp_path / "w" / "a.onnx.done").unlink()
    assert work.product("a.onnx", make)[1]


def test_what_a_killed_verification_left_is_removed_and_a_finished_bundle_is_remembered(tmp_path):
    workshop = Workshop.open(tmp_path / "w", "facts")
    (workshop.path / "reference.x").mkdir()
    (workshop.path / "reference.x" / "0.npy").write_bytes(b"x")
    workshop.product("a", lambda path: path.write_bytes(b"a"))
    again = Workshop.open(tmp_path / "w", "facts")
    assert not (again.path / "reference.x").exists()
    assert again.product("a", lambda path: path.write_bytes(b"b"))[1] is False
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    assert not again.is_finished(manifest)
    again.finish(manifest)
    assert Workshop.open(tmp_path / "w", "facts").is_finished(manifest)
    assert sorted(entry.name for entry in again.path.iterdir()) == ["bundle", "key"]
    manifest.write_text("{ }")
    assert not again.is_finished(manifest), "another bundle"
