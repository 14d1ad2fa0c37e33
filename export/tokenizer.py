"""The tokenizer that a bundle carries: a checkpoint's own, or one of bytes where there is no checkpoint."""

import shutil
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import T5TokenizerFast

from dvgwm.models.sizes import Text
from dvgwm.runtime.bundle.tokenizer import TOKENIZER_FILE
from dvgwm.runtime.errors import ConfigError

SENTENCE_PIECES = "spiece.model"
_SPECIAL = ("<pad>", "</s>", "<unk>")
"""T5's first three tokens."""
_LARGEST_BYTES = 32 << 20
_SENTENCE = "put the banana into the bowl"


def read_tokenizer(folder: Path, text: Text) -> bytes:
    """Return the `tokenizer.json` in ``folder``, made of its SentencePiece model where it has that only.

    Raises `ConfigError` where there is neither, or it is not the tokenizer of a T5 whose vocabulary is ``text``'s.
    """
    whole, pieces = folder / TOKENIZER_FILE, folder / SENTENCE_PIECES
    found = next((path for path in (whole, pieces) if path.is_file()), None)
    if found is None:
        raise ConfigError("TOKENIZER", f"wanted {TOKENIZER_FILE} or {SENTENCE_PIECES} in {folder}, found neither")
    if found.stat().st_size > _LARGEST_BYTES:
        raise ConfigError("TOKENIZER", f"{found} is over {_LARGEST_BYTES >> 20} MB, which no tokenizer is")
    try:
        data = found.read_bytes() if found == whole else _of_sentence_pieces(pieces)
        tokenizer = Tokenizer.from_buffer(data)
        tokens = tokenizer.encode(_SENTENCE).ids
    except Exception as error:  # neither library has errors of its own
        raise ConfigError("TOKENIZER", f"{found} is no tokenizer that can be read: {error}") from None
    wrong = [
        f"{name} is {tokenizer.token_to_id(name)}"
        for index, name in enumerate(_SPECIAL)
        if tokenizer.token_to_id(name) != index
    ]
    if tokenizer.get_vocab_size() > text.vocabulary or max(tokens) >= text.vocabulary:
        wrong.append(f"it has {tokenizer.get_vocab_size()} tokens, the text encoder {text.vocabulary}")
    if tokens[-1:] != [1] or len(tokens) < 2:
        wrong.append(f"{_SENTENCE!r} ends with {tokens[-1:]} and not with </s>")
    if wrong:
        raise ConfigError("TOKENIZER", f"{found} is no T5 tokenizer of this size: {'; '.join(wrong)}")
    return data


def of_bytes() -> bytes:
    """Return a `tokenizer.json` that gives every byte of a text a token, as ByT5: for text encoders that learned none."""
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))  # noqa: S106 (a token of text)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer.to_str().encode()


def _of_sentence_pieces(path: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder) / SENTENCE_PIECES)  # alone: no settings beside it are read
        return T5TokenizerFast.from_pretrained(folder, extra_ids=0).backend_tokenizer.to_str().encode()
