"""Prompts come from the bundle, then the cache, then the encoder; an unknown one is refused by name."""

import numpy as np
import pytest

from dvgwm.runtime.bundle.disk import write_bundle
from dvgwm.runtime.bundle.prompts import PROMPTS_FILE, PromptStore, prompt_key, save_prompts
from dvgwm.runtime.bundle.tokenizer import check_instruction, tokenize
from dvgwm.runtime.config import plugins
from dvgwm.runtime.errors import BundleCorruptError, BundleIncompatibleError, ConfigError


class Encoder:
    def __init__(self):
        self.calls = []

    def __call__(self, words):
        self.calls.append(words)
        return np.full((1, 2, 3), len(words), np.float32)


def test_an_encoded_prompt_is_cached_for_the_next_process(make_bundle, tmp_path):
    bundle, encoder = make_bundle(), Encoder()
    store = PromptStore(bundle, tmp_path / "cache", encoder)
    first = store.embed("push the cube")
    assert np.array_equal(first, store.embed("push the cube"))
    again = PromptStore(bundle, tmp_path / "cache", None)
    assert np.array_equal(first, again.embed("push the cube"))
    assert encoder.calls == ["push the cube"]
    assert again.known() == ("push the cube",)


def test_an_unknown_prompt_without_encoder_names_the_nearest(make_bundle, tmp_path):
    bundle = make_bundle()
    PromptStore(bundle, tmp_path, Encoder()).embed("push the red cube")
    with pytest.raises(BundleIncompatibleError) as caught:
        PromptStore(bundle, tmp_path, None).embed("push the blue cube")
    assert caught.value.exit_code == 12
    assert "push the red cube" in str(caught.value)
    assert "--instructions" in str(caught.value)


def test_a_spoiled_cache_file_is_made_again(make_bundle, tmp_path):
    bundle, encoder = make_bundle(), Encoder()
    good = PromptStore(bundle, tmp_path / "c", encoder).embed("open the drawer")
    (path,) = (tmp_path / "c").iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)
    assert np.array_equal(PromptStore(bundle, tmp_path / "c", encoder).embed("open the drawer"), good)
    path.write_bytes(b"short")
    assert np.array_equal(PromptStore(bundle, tmp_path / "c", encoder).embed("open the drawer"), good)
    assert len(encoder.calls) == 3


def test_the_key_changes_with_encoder_tokenizer_and_words(make_bundle):
    from dataclasses import replace

    text = make_bundle().manifest.text
    keys = {
        prompt_key(text, "a"),
        prompt_key(text, "b"),
        prompt_key(replace(text, encoder_sha256="1" * 64), "a"),
        prompt_key(replace(text, tokenizer_sha256="1" * 64), "a"),
    }
    assert len(keys) == 4


def test_another_encoders_file_is_not_used(make_bundle, tmp_path):
    from dataclasses import replace

    bundle = make_bundle()
    other = replace(bundle.manifest.text, encoder_sha256="1" * 64)
    key = prompt_key(bundle.manifest.text, "a")
    save_prompts(tmp_path / f"{key}.safetensors", other, {"a": np.zeros((1, 2, 3), np.float32)})
    with pytest.raises(BundleIncompatibleError):
        PromptStore(bundle, tmp_path, None).embed("a")


def test_bytes_become_tokens(make_bundle):
    tokens = tokenize(make_bundle(), "hé")
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [[ord("h") + 3, 0xC3 + 3, 0xA9 + 3, 1] + [0] * 60]


def test_empty_and_long_instructions_are_refused(make_bundle):
    for empty in ("", "  \n"):
        with pytest.raises(ConfigError) as caught:
            check_instruction(empty)
        assert caught.value.log_code == "INSTRUCTION_EMPTY"
    with pytest.raises(ConfigError) as caught:
        tokenize(make_bundle(), "x" * 64)
    assert (caught.value.exit_code, caught.value.log_code) == (2, "INSTRUCTION_LONG")
    assert tokenize(make_bundle(), "x" * 63).shape == (1, 64)


def test_a_long_instruction_is_told_in_bytes_before_the_bundle_is_read(make_bundle, monkeypatch):
    path = make_bundle().path
    monkeypatch.setattr(plugins, "read_bundle", lambda *_: pytest.fail("the bundle was read"))
    with pytest.raises(ConfigError, match=r"wanted at most 63 bytes in UTF-8, this instruction has 64; shorten it"):
        plugins.find_bundle(path, None, (), "é" * 32)
    with pytest.raises(ConfigError) as caught:
        plugins.find_bundle(path, None, (), " ")
    assert caught.value.log_code == "INSTRUCTION_EMPTY"


def test_prompts_that_are_swapped_after_they_were_verified_are_refused(make_bundle, tmp_path):
    bundle = make_bundle()
    text = bundle.manifest.text
    save_prompts(tmp_path / PROMPTS_FILE, text, {"push": np.zeros((1, 2, 3), np.float32)})
    files = {name: bundle.file(name) for name in bundle.manifest.files} | {PROMPTS_FILE: tmp_path / PROMPTS_FILE}
    bundle = write_bundle(tmp_path / "with prompts", bundle.manifest, files)
    assert PromptStore(bundle, None, None).embed("push").max() == 0.0
    save_prompts(bundle.file(PROMPTS_FILE), text, {"push": np.ones((1, 2, 3), np.float32)})
    with pytest.raises(BundleCorruptError, match=r"prompts\.safetensors changed"):
        PromptStore(bundle, None, None).embed("push")
