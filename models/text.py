"""The T5 text encoder, and what embeds an instruction with it."""

import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from .sizes import Text


def embed(encoder: nn.Module, tokens: Tensor) -> Tensor:
    """Return the embeddings, B L D, of tokens B L; padding is attended to, as CogVideoX does."""
    return encoder(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state


def build_text_encoder(text: Text) -> T5EncoderModel | UMT5EncoderModel:
    """Return a T5 v1.1 encoder, or UMT5's (with positions in every layer): tokens B L to embeddings B L D."""
    config, model = (UMT5Config, UMT5EncoderModel) if text.kind == "umt5" else (T5Config, T5EncoderModel)
    return model(
        config(
            vocab_size=text.vocabulary,
            d_model=text.width,
            d_kv=text.head_width,
            d_ff=text.feed_forward,
            num_layers=text.layers,
            num_heads=text.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            use_cache=False,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )
