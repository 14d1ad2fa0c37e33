"""A checkpoint's tokenizer in the bundle: the tokens of its SentencePiece model, and what is refused."""

import io
import json

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("transformers", reason="the export extra is not installed")
spm = pytest.importorskip("sentencepiece", reason="the export extra is not installed")

from dataclasses import replace

from tokenizers import Tokenizer, models

from dvgwm.export.tokenizer import of_bytes, read_tokenizer
from dvgwm.models.sizes import T5_XXL
from dvgwm.runtime.bundle.tokenizer import byte_tokens
from dvgwm.runtime.errors import ConfigError

pytestmark = pytest.mark.torch
WORDS = [
    "put",
    "the",
    "banana",
    "into",
    "the",
    "bowl",
    "push",
    "the",
    "red",
    "cube",
    "stack",
    "open",
    "the",
    "drawer",
    "close",
    "a",
    "an",
    "of",
    "on",
    "under",
    "left",
    "right",
]
SENTENCES = ("put the  banana into the bowl", " Open THE drawer!", "naïve ﬁne", "push the red cube")


@pytest.fixture(scope="module")
def pieces():
    """A SentencePiece model, trained on a few words, with T5's special tokens."""
    model = io.BytesIO()
    lines = [" ".join(WORDS[start:] + WORDS[:start]) for start in range(len(WORDS))] * 20
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=60, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def test_a_sentence_piece_model_becomes_a_tokenizer_of_the_same_tokens(pieces, tmp_path):
    (tmp_path / "spiece.model").write_bytes(pieces)
    made = Tokenizer.from_buffer(read_tokenizer(tmp_path, T5_XXL))
    theirs = spm.SentencePieceProcessor(model_proto=pieces)
    for sentence in SENTENCES:
        assert made.encode(sentence).ids == [*theirs.encode(sentence), 1], sentence
    (tmp_path / "tokenizer.json").write_text(made.to_str())
    (tmp_path / "spiece.model").write_bytes(b"never looked at")
    assert (
        Tokenizer.from_buffer(read_tokenizer(tmp_path, T5_XXL)).encode(SENTENCES[0]).ids
        == made.encode(SENTENCES[0]).ids
    )


def test_bytes_stand_in_where_there_is_no_checkpoint(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(of_bytes())
    made = Tokenizer.from_buffer(read_tokenizer(tmp_path, T5_XXL))
    for sentence in SENTENCES:
        ids = made.encode(sentence).ids
        assert len(ids) == len(byte_tokens(sentence))
        assert ids[-1] == 1
        assert min(ids[:-1]) >= 3
    assert made.encode("a b").ids != made.encode("b a").ids


def refused(folder, text=T5_XXL):
    with pytest.raises(ConfigError) as caught:
        read_tokenizer(folder, text)
    assert (caught.value.exit_code, caught.value.log_code) == (2, "TOKENIZER")
    return str(caught.value)


def test_what_is_no_t5_tokenizer_of_the_size_is_refused(pieces, tmp_path):
    assert "found neither" in refused(tmp_path)
    (tmp_path / "spiece.model").write_bytes(pieces)
    assert "the text encoder 20" in refused(tmp_path, replace(T5_XXL, vocabulary=20))
    for wrong in (pieces[: len(pieces) // 2], b"", b"\x80\x02}."):
        (tmp_path / "spiece.model").write_bytes(wrong)
        refused(tmp_path)
    other = Tokenizer(models.WordLevel({"<unk>": 0, "put": 1}, unk_token="<unk>"))
    (tmp_path / "tokenizer.json").write_text(other.to_str())
    assert "is no T5 tokenizer" in refused(tmp_path)
    bare = json.loads(of_bytes()) | {"post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(bare))
    assert "and not with </s>" in refused(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "can be read" in refused(tmp_path)
