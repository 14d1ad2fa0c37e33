"""Prompt embeddings by key: from the bundle, else from the user's cache, else from the bundle's encoder."""

import difflib
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from ..cache import Cache
from ..errors import BundleIncompatibleError
from ..files import write_atomic
from ..types import FloatArray
from .disk import Bundle
from .manifest import TextContract

PROMPTS_FILE = "prompts.safetensors"


def prompt_key(text: TextContract, instruction: str) -> str:
    """Return the key of a prompt: it changes with the encoder, the tokenizer and the words."""
    facts = [text.encoder_sha256, text.tokenizer_sha256, text.max_tokens, "float32", instruction]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def sha256(*parts: bytes) -> str:
    """Return the hash of the last of ``parts``, as a bundle's embeddings are known again by."""
    return hashlib.sha256(parts[-1]).hexdigest()


def save_prompts(
    path: Path, text: TextContract, prompts: Mapping[str, FloatArray], seal: Callable[..., str] = sha256
) -> None:
    """Write embeddings (instruction to 1 L D) to a safetensors file whose metadata maps keys to their words.

    ``seal`` returns what the bytes of key and embedding are known again by: a hash in a bundle, which lists its own files.
    """
    keys = {prompt_key(text, instruction): instruction for instruction in prompts}
    arrays = {key: np.ascontiguousarray(prompts[instruction]) for key, instruction in keys.items()}
    digests = {f"sha256:{key}": seal(key.encode(), array.tobytes()) for key, array in arrays.items()}
    write_atomic(path, safetensors.numpy.save(arrays, metadata=keys | digests))


@dataclass(frozen=True, slots=True)
class PromptStore:
    """Where a bundle's prompt embeddings come from.

    ``encode`` is None if the bundle has no text encoder, ``cache`` if nothing is to be kept.
    """

    bundle: Bundle
    cache: Path | None
    encode: Callable[[str], FloatArray] | None
    memory: dict[str, FloatArray] = field(default_factory=dict)

    def embed(self, instruction: str) -> FloatArray:
        """Return the embedding of ``instruction``, float32 1 L D.

        Raises `BundleIncompatibleError` (12) where it is in neither store and the bundle has no encoder, naming the
        nearest instructions that are known.
        """
        key = prompt_key(self.bundle.manifest.text, instruction)
        if key not in self.memory:
            self.memory[key] = self._find(key, instruction)
        return self.memory[key]

    def known(self) -> tuple[str, ...]:
        """Return the instructions whose embeddings are stored."""
        paths = [self.bundle.file(PROMPTS_FILE)] if PROMPTS_FILE in self.bundle.manifest.files else []
        if self.cache is not None and Cache.at(self.cache).exists():
            paths += sorted(path for path in self.cache.glob("*.safetensors") if Cache.at(self.cache).owns(path))
        instructions: set[str] = set()
        for path in paths:
            if path.is_file():
                with suppress(SafetensorError), safe_open(path, "numpy") as file:
                    metadata = file.metadata() or {}
                    instructions |= {metadata[key] for key in file.keys() if key in metadata}  # noqa: SIM118 (no mapping)
        return tuple(sorted(instructions - {""}))

    def _find(self, key: str, instruction: str) -> FloatArray:
        if PROMPTS_FILE in self.bundle.manifest.files:
            found = _load(self.bundle.file(PROMPTS_FILE), key, sha256)
            self.bundle.check_unchanged((PROMPTS_FILE,))
            if found is not None:
                return found
        if (found := self._remembered(key)) is not None:
            return found
        if self.encode is None:
            raise BundleIncompatibleError("PROMPT_UNKNOWN", self._unknown(instruction))
        embedding = self.encode(instruction)
        if self.cache is not None:
            cache = Cache.at(self.cache)
            path = cache.open() / f"{key}.safetensors"
            save_prompts(path, self.bundle.manifest.text, {instruction: embedding}, cache.seal)
        return embedding

    def _remembered(self, key: str) -> FloatArray | None:
        """Return the embedding that this user kept under ``key``, None if there is none, or somebody else wrote it."""
        if self.cache is None or not (cache := Cache.at(self.cache)).exists():
            return None
        path = self.cache / f"{key}.safetensors"
        return _load(path, key, cache.seal) if cache.owns(path) else None

    def _unknown(self, instruction: str) -> str:
        known = self.known()
        nearest = difflib.get_close_matches(instruction, known, 3, 0.0)
        preset = self.bundle.manifest.model.preset
        return (
            f"no text encoder in this bundle and no stored prompt {instruction!r}; nearest known: "
            f"{'; '.join(nearest) or 'none'}; add yours with "
            f"`python export/build_engines.py --preset {preset} --instructions FILE`"
        )


def _load(path: Path, key: str, seal: Callable[..., str]) -> FloatArray | None:
    """Return the embedding stored under ``key``, or None if it is absent or its bytes do not match their seal."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            if key not in file.keys():  # noqa: SIM118 (no mapping)
                return None
            array: FloatArray = file.get_tensor(key)
            digest = (file.metadata() or {}).get(f"sha256:{key}")
    except (SafetensorError, TypeError):  # a dtype that numpy lacks
        return None
    return array if hmac.compare_digest(seal(key.encode(), array.tobytes()), str(digest)) else None
