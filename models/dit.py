"""The two diffusion transformers, built from diffusers' CogVideoX."""

from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import apply_rotary_emb, get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor
from torch.nn import functional

from .sizes import DiT, Preset

BASE_GRID = (30, 45)
"""Tokens of 480x720, the size CogVideoX was trained at: stretched positions span it at every size."""


class JointAttention:
    """CogVideoX's attention, rotated tokens concatenated instead of assigned in place, so that graphs stay clean."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return video and text tokens after joint attention; shapes B N D and B L D."""
        text_length = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], 1)
        query, key, value = (
            project(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        assert image_rotary_emb is not None
        query, key = (self.rotated(x, image_rotary_emb, text_length) for x in (attn.norm_q(query), attn.norm_k(key)))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return mixed[:, text_length:], mixed[:, :text_length]

    def rotated(self, x: Tensor, rotary: tuple[Tensor, Tensor], text_length: int) -> Tensor:
        """Return queries or keys, B H S D, with the video tokens turned by their places."""
        return torch.cat([x[:, :, :text_length], apply_rotary_emb(x[:, :, text_length:], rotary)], 2)


def build_transformer(dit: DiT, preset: Preset, conditions: int, path: int = 0) -> CogVideoXTransformer3DModel:
    """Return a transformer for the preset's latents, ``conditions`` latents and ``path`` channels after the state's own.

    Positions are 3D RoPE in every size; CogVideoX-5B-I2V's learned position embedding is dropped (DVG-WM).
    """
    channels = preset.codec.channels
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=dit.heads,
        attention_head_dim=dit.head_width,
        in_channels=channels * (1 + conditions) + path,
        out_channels=channels,
        time_embed_dim=dit.time_embed,
        text_embed_dim=preset.text.width,
        num_layers=dit.layers,
        patch_size=dit.patch,
        max_text_seq_length=preset.text.max_tokens,
        use_rotary_positional_embeddings=True,
    )
    transformer.set_attn_processor(JointAttention())
    return transformer


def rotary_positions(dit: DiT, grid: tuple[int, int], latent_frames: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, (T h w) x head width, for a latent ``grid``; ``dit.rope`` is stretched or integer."""
    tokens = grid[0] // dit.patch, grid[1] // dit.patch
    corners = ((0, 0), tokens)
    if dit.rope == "stretched":
        corners = get_resize_crop_region_for_grid(tokens, BASE_GRID[1], BASE_GRID[0])
    cosines, sines = get_3d_rotary_pos_embed(dit.head_width, corners, tokens, latent_frames)
    return cosines, sines
