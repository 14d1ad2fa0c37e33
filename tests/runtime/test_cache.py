"""What is kept here and found again: believed only if this user made it, in a place that nobody else may write to."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.numpy

from dvgwm.runtime.bundle.prompts import PromptStore, save_prompts
from dvgwm.runtime.cache import Cache
from dvgwm.runtime.errors import BundleIncompatibleError, ConfigError, RecordingError

EMBEDDING = np.full((1, 2, 3), 7.0, np.float32)


@pytest.fixture
def prompts(make_bundle, tmp_path):
    """A store with a bundle, a cache that holds one prompt, and its only file."""
    bundle = make_bundle()
    PromptStore(bundle, tmp_path / "cache", lambda words: EMBEDDING).embed("push")
    (path,) = (tmp_path / "cache").iterdir()
    return bundle, tmp_path / "cache", path


def believed(prompts):
    """Return whether what lies in the cache is taken, where nothing else has the prompt."""
    bundle, cache, _ = prompts
    try:
        return bool(PromptStore(bundle, cache, None).embed("push").any())
    except BundleIncompatibleError:
        return False


def forged(prompts):
    """Somebody else's embedding, with its own hash: what the cache itself can know."""
    bundle, _, path = prompts
    save_prompts(path, bundle.manifest.text, {"push": np.full((1, 2, 3), 9.0, np.float32)})


def edited(prompts):
    """The sealed file with other numbers under the old seal."""
    _, _, path = prompts
    with safetensors.safe_open(path, "numpy") as file:
        metadata, name = file.metadata(), next(iter(file.keys()))
    safetensors.numpy.save_file({name: np.full((1, 2, 3), 9.0, np.float32)}, path, metadata=metadata)


def of_another_prompt(prompts):
    """A sealed file under the name of another prompt."""
    bundle, cache, path = prompts
    PromptStore(bundle, cache, lambda words: np.full((1, 2, 3), 9.0, np.float32)).embed("pull")
    (other,) = {*cache.iterdir()} - {path}
    other.replace(path)


def of_another_user(prompts):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(prompts[2], 65534, 65534)


def writable_by_others(prompts):
    prompts[2].chmod(0o666)


def a_link(prompts):
    _, cache, path = prompts
    path.rename(cache.parent / "elsewhere")
    path.symlink_to(cache.parent / "elsewhere")


def of_another_key(prompts):
    prompts[1].with_name("cache.key").unlink()


def from_another_machine(prompts):
    """A cache that was copied from somewhere, without the key that lies beside it."""
    _, cache, _ = prompts
    shutil.copytree(cache, cache.with_name("copy"))
    shutil.rmtree(cache)
    cache.with_name("cache.key").unlink()
    cache.with_name("copy").rename(cache)


SPOILS = (
    forged, edited, of_another_prompt, of_another_user, writable_by_others, a_link, of_another_key, from_another_machine,
)  # fmt: skip


def test_what_was_kept_is_found(prompts):
    assert believed(prompts)
    _, cache, path = prompts
    assert cache.stat().st_mode & 0o777 == 0o700
    assert cache.with_name("cache.key").stat().st_mode & 0o777 == 0o600
    assert b"push" in path.read_bytes(), "the key is elsewhere"
    assert not any(cache.with_name("cache.key").read_bytes() in each.read_bytes() for each in cache.iterdir())


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_what_somebody_else_may_have_written_is_made_anew(prompts, spoil):
    spoil(prompts)
    assert not believed(prompts)
    bundle, cache, _ = prompts
    assert np.array_equal(PromptStore(bundle, cache, lambda words: EMBEDDING).embed("push"), EMBEDDING)


def owner(cache):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(cache, 65534, 65534)


def mode(cache):
    cache.chmod(0o777)


def group(cache):
    cache.chmod(0o770)


def link_of_another(cache):
    if os.geteuid() != 0:
        pytest.skip("only root can give a link away")
    cache.rename(cache.with_name("real"))
    cache.symlink_to(cache.with_name("real"))
    os.lchown(cache, 65534, 65534)


def key_of_another(cache):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(cache.with_name("cache.key"), 65534, 65534)


def open_key(cache):
    cache.with_name("cache.key").chmod(0o666)


def short_key(cache):
    cache.with_name("cache.key").write_bytes(b"short")


def linked_key(cache):
    cache.with_name("cache.key").unlink()
    (cache.parent / "elsewhere").write_bytes(bytes(32))
    cache.with_name("cache.key").symlink_to(cache.parent / "elsewhere")


@pytest.mark.parametrize(
    "spoil",
    [owner, mode, group, link_of_another, key_of_another, open_key, short_key, linked_key],
    ids=lambda each: each.__name__,
)
def test_a_place_that_is_not_ones_own_is_refused(prompts, spoil):
    bundle, cache, _ = prompts
    spoil(cache)
    with pytest.raises(ConfigError, match=r"remove it") as caught:
        PromptStore(bundle, cache, lambda words: EMBEDDING).embed("push")
    assert caught.value.log_code in ("CACHE_OWNER", "CACHE_KEY")


def test_a_place_that_cannot_be_written_is_told(make_bundle, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="name another place with --cache-dir"):
        PromptStore(make_bundle(), tmp_path / "file" / "cache", lambda words: EMBEDDING).embed("push")


def test_an_engine_that_somebody_else_compiled_is_not_run(tmp_path):
    """Its record and its hash may be as they should: a seal is of this user's key."""
    from dvgwm.runtime.backends.compiling import Building
    from dvgwm.runtime.engine_store import Rebuild, Record, Store, record_of

    class Compiler:
        name, facts = "compiler", {"gpu": "a"}

        def lacks(self, facts, building):
            return () if facts == self.facts else ("gpu",)

    class Source:
        graph, weights, shapes = "g", "w", {"x": (1, 2)}

    def lay(cache, engine=b"engine", sealing=True, **change):
        record = Record(
            "compiler", "x.onnx", "g", "w", {"x": (1, 2)}, {"gpu": "a"}, Building(), False, 1.0, digest(engine)
        )
        store = cache.inside("compiler")
        (store.open() / "one.plan").write_bytes(engine)
        if sealing:
            record = replace(record, seal=store.seal(record.sealed_by()))
        facts = json.dumps(asdict(replace(record, **change)))
        (store.folder / "one.json").write_text(facts)
        return store.folder / "one.plan"

    def digest(data):
        import hashlib

        return hashlib.sha256(data).hexdigest()

    cache = Cache.at(tmp_path / "cache")
    store = Store(cache, Compiler())
    path = lay(cache)
    assert store.find(Source(), Rebuild()) == path
    assert record_of(path).seal
    lay(cache, sealing=False)
    assert store.find(Source(), Rebuild()) is None
    assert store.told(Source()) == "has an engine that is damaged, or not this user's"
    lay(cache, b"another", weights="w")
    path.write_bytes(b"spoilt")
    assert store.find(Source(), Rebuild()) is None
    lay(cache, sha256=digest(b"another"))
    path.write_bytes(b"another")
    assert store.find(Source(), Rebuild()) is None, "the record names another engine than was sealed"
    other = Cache.at(tmp_path / "other")
    shutil.copytree(lay(other).parent, tmp_path / "cache" / "compiler", dirs_exist_ok=True)
    assert store.find(Source(), Rebuild()) is None, "of another key"
    lay(cache).chmod(0o622)
    assert store.find(Source(), Rebuild()) is None


def test_a_user_without_a_home_has_a_place_of_his_own(tmp_path):
    """Two such users share no folder, and one cannot make the other's first."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody without a home")
    places = set()
    for user in (54_321, 54_322):
        code = f"from dvgwm.runtime.commands.line import cache_dir; import os; os.setuid({user}); print(cache_dir())"
        own = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=own, check=True, timeout=60
        )
        places.add(done.stdout.strip())
        assert str(user) in done.stdout
    assert len(places) == 2
