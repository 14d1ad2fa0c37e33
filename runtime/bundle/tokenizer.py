"""Instructions to tokens: plain bytes, or the bundle's `tokenizer.json`."""

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleIncompatibleError, ConfigError
from .disk import Bundle
from .manifest import TextContract

TOKENIZER_FILE = "tokenizer.json"
_PAD, _END, _FIRST_BYTE = 0, 1, 3  # as ByT5


def check_instruction(instruction: str) -> str:
    """Return ``instruction`` without surrounding space; raises `ConfigError` where nothing is left."""
    if not (text := " ".join(instruction.split())):
        raise ConfigError("INSTRUCTION_EMPTY", "wanted an instruction in words, got an empty one; set --instruction")
    return text


def tokenize(bundle: Bundle, text: str) -> NDArray[np.int64]:
    """Return the tokens of ``text``, int64 1 x max_tokens, padded; raises `ConfigError` where it does not fit."""
    contract = bundle.manifest.text
    if contract.tokenizer == "bytes":
        tokens = byte_tokens(text)
    elif contract.tokenizer == TOKENIZER_FILE:
        tokens = _from_file(bundle, text)
    else:
        raise BundleIncompatibleError("TOKENIZER_KIND", f"wanted bytes or {TOKENIZER_FILE}, got {contract.tokenizer!r}")
    check_length(contract, len(tokens))
    padded = np.full((1, contract.max_tokens), _PAD, np.int64)
    padded[0, : len(tokens)] = tokens
    return padded


def check_bytes(contract: TextContract, text: str) -> None:
    """Raise `ConfigError` where ``text`` is too long for a bundle that takes bytes: its manifest alone says so."""
    if contract.tokenizer == "bytes":
        check_length(contract, len(byte_tokens(text)))


def check_length(contract: TextContract, tokens: int) -> None:
    """Raise `ConfigError` where so many ``tokens``, the end's included, are too many."""
    if tokens > contract.max_tokens:
        unit = "bytes in UTF-8" if contract.tokenizer == "bytes" else "tokens"
        raise ConfigError(
            "INSTRUCTION_LONG",
            f"wanted at most {contract.max_tokens - 1} {unit}, this instruction has {tokens - 1}; shorten it",
        )


def byte_tokens(text: str) -> list[int]:
    """Return the tokens of ``text`` byte by byte, as ByT5's, with the end's."""
    return [byte + _FIRST_BYTE for byte in text.encode()] + [_END]


def _from_file(bundle: Bundle, text: str) -> list[int]:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(
            "TOKENIZERS_MISSING",
            "this bundle's tokenizer needs the tokenizers library: pip install 'dvgwm[tokenizers]'",
        ) from None
    try:
        tokens = list(Tokenizer.from_file(str(bundle.file(TOKENIZER_FILE))).encode(text).ids)
    except Exception as error:  # the library has no errors of its own
        raise BundleIncompatibleError("TOKENIZER_FILE", f"cannot use {TOKENIZER_FILE}: {error}; rebuild it") from error
    bundle.check_unchanged((TOKENIZER_FILE,))
    return tokens
