"""Prompt embeddings by key: from the bundle, else from the user's cache, else from the bundle's encoder."""

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from ..errors import BundleIncompatibleError, RecordingError
from ..files import write_atomic
from ..types import FloatArray
from .disk import Bundle
from .manifest import TextContract

PROMPTS_FILE = "prompts.safetensors"


def prompt_key(text: TextContract, instruction: str) -> str:
    """Return the key of a prompt: it changes with the encoder, the tokenizer and the words."""
    facts = [text.encoder_sha256, text.tokenizer_sha256, text.max_tokens, "float32", instruction]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def save_prompts(path: Path, text: TextContract, prompts: Mapping[str, FloatArray]) -> None:
    """Write embeddings (instruction to 1 L D) to a safetensors file whose metadata maps keys to their words."""
    keys = {prompt_key(text, instruction): instruction for instruction in prompts}
    arrays = {key: np.ascontiguousarray(prompts[instruction]) for key, instruction in keys.items()}
    digests = {f"sha256:{key}": hashlib.sha256(array.tobytes()).hexdigest() for key, array in arrays.items()}
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
        paths = list(self._files("*"))
        if self.cache is not None and self.cache.is_dir():
            paths += sorted(self.cache.glob("*.safetensors"))
        instructions: set[str] = set()
        for path in paths:
            if path.is_file():
                with suppress(SafetensorError), safe_open(path, "numpy") as file:
                    metadata = file.metadata() or {}
                    instructions |= {metadata[key] for key in file.keys() if key in metadata}  # noqa: SIM118 (no mapping)
        return tuple(sorted(instructions - {""}))

    def _find(self, key: str, instruction: str) -> FloatArray:
        for path in self._files(key):
            if (found := _load(path, key)) is not None:
                self.bundle.check_unchanged((PROMPTS_FILE,))
                return found
        if self.encode is None:
            raise BundleIncompatibleError("PROMPT_UNKNOWN", self._unknown(instruction))
        embedding = self.encode(instruction)
        if self.cache is not None:
            self._remember(self.cache / f"{key}.safetensors", instruction, embedding)
        return embedding

    def _files(self, key: str) -> tuple[Path, ...]:
        inside = (self.bundle.file(PROMPTS_FILE),) if PROMPTS_FILE in self.bundle.manifest.files else ()
        return inside if self.cache is None else (*inside, self.cache / f"{key}.safetensors")

    def _remember(self, path: Path, instruction: str, embedding: FloatArray) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError("CACHE_WRITE", f"cannot write {path}: {error.strerror}; set --cache-dir") from None
        save_prompts(path, self.bundle.manifest.text, {instruction: embedding})

    def _unknown(self, instruction: str) -> str:
        known = self.known()
        nearest = difflib.get_close_matches(instruction, known, 3, 0.0)
        preset = self.bundle.manifest.model.preset
        return (
            f"no text encoder in this bundle and no stored prompt {instruction!r}; nearest known: "
            f"{'; '.join(nearest) or 'none'}; add yours with "
            f"`python export/build_engines.py --preset {preset} --instructions FILE`"
        )


def _load(path: Path, key: str) -> FloatArray | None:
    """Return the embedding stored under ``key``, or None if it is absent or its bytes do not match their hash."""
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
    return array if hashlib.sha256(array.tobytes()).hexdigest() == digest else None
