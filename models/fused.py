"""CogVideoX's transformer in as few passes over its tokens as the arithmetic allows, on the kernels of `dvgwm.kernels`.

The same weights give the same velocity as `models.dit`'s transformer. What differs: text and video tokens lie in one tensor
from first to last; queries, keys and values come from one product; the modulations of all layers from one product
per forward (every branch is at the same time); norm, positions, gates and residuals are fused kernels.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional

from dvgwm.kernels.attention import attention, library_attention
from dvgwm.kernels.attention_8bit import attention_8bit, attention_fp8, quantise_values
from dvgwm.kernels.modulate import modulate, modulate_8bit, modulate_first, modulate_first_8bit
from dvgwm.kernels.qk_norm_rope import plain_qk_norm_rope, qk_norm_rope, qk_norm_rope_8bit
from dvgwm.kernels.quantise import quantise, quantise_rows
from dvgwm.kernels.scaled_linear import scaled_linear
from dvgwm.runtime.errors import ConfigError

CENTRE_STRIDE = 32
"""Every 32nd video token's key makes the centre that 8-bit attention takes off: any centre is exact, a near one precise."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the networks compute: ``dtype`` everywhere, FP8 products with ``fp8``, and which attention.

    ``attention`` is the library's (``library``), ours (``kernel``), ours on 8-bit scores (``8bit``) or with FP8 values too
    (``fp8``). ``loss`` says what it does to the numbers: lossless, or bounded by the parity that the bundle states.
    """

    dtype: torch.dtype
    fp8: bool = False
    attention: str = "library"
    loss: str = "bounded"


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "float32": Recipe(torch.float32, loss="lossless"),
        "bfloat16": Recipe(torch.bfloat16),
        "bfloat16_kernel": Recipe(torch.bfloat16, attention="kernel"),
        "fp8": Recipe(torch.bfloat16, fp8=True),
        "fp8_8bit": Recipe(torch.bfloat16, fp8=True, attention="8bit"),
        "fp8_fp8": Recipe(torch.bfloat16, fp8=True, attention="fp8"),
    }
)


def recipe(name: str) -> Recipe:
    """Return the recipe called ``name``; raises `ConfigError` naming those that exist."""
    if name not in RECIPES:
        raise ConfigError("PRECISION", f"wanted a precision of {', '.join(RECIPES)}; got {name!r}")
    return RECIPES[name]


class Dense(nn.Module):
    """A linear layer in the recipe's dtype."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        self.bias = nn.Parameter(bias.to(dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b``."""
        return functional.linear(x, self.weight, self.bias)


class DenseFp8(nn.Module):
    """A linear layer with FP8 weights, a scale per output channel; takes quantised tokens, or quantises them itself."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        numbers, scale = quantise_rows(weight)
        self.register_buffer("weight", numbers)
        self.register_buffer("scale", scale)
        self.bias = nn.Parameter(bias.to(dtype), requires_grad=False)

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return ``x W^T + b`` of tokens B S K, or of FP8 tokens and their scales."""
        tokens, scale = quantise(x, False) if isinstance(x, Tensor) else x
        return scaled_linear(tokens, scale, self.weight, self.scale, self.bias)


class Block(nn.Module):
    """One transformer block on joint tokens, text first; ``made`` tells how its products and attention compute."""

    def __init__(self, block: Any, made: Recipe) -> None:
        super().__init__()
        attn, dense = block.attn1, DenseFp8 if made.fp8 else Dense
        parts = (attn.to_q, attn.to_k, attn.to_v)
        self.made, self.heads = made, attn.heads
        self.qkv = dense(_join([p.weight for p in parts]), _join([_bias(p) for p in parts]), made.dtype)
        self.out = dense(attn.to_out[0].weight, _bias(attn.to_out[0]), made.dtype)
        self.up = dense(block.ff.net[0].proj.weight, _bias(block.ff.net[0].proj), made.dtype)
        self.down = dense(block.ff.net[2].weight, _bias(block.ff.net[2]), made.dtype)
        self.norms = nn.ParameterList(
            nn.Parameter(tensor.to(made.dtype), requires_grad=False)
            for norm in (block.norm1.norm, block.norm2.norm, attn.norm_q, attn.norm_k)
            for tensor in (norm.weight, norm.bias)
        )
        self.epsilon, self.qk_epsilon = block.norm1.norm.eps, attn.norm_q.eps

    def first(self, tokens: Tensor, after: Tensor, words: int) -> Any:
        """Return the normalised tokens that enter attention where no update precedes."""
        norm = modulate_first_8bit if self.made.fp8 else modulate_first
        return norm(tokens, after, self.norms[0], self.norms[1], words, self.epsilon)

    def enter(self, tokens: Tensor, update: Tensor, before: Tensor, after: Tensor, words: int) -> Any:
        """Return the tokens with the last block's update, and normalised for attention."""
        return self._gated(tokens, update, before, after, words, 0)

    def forward(self, tokens: Tensor, normed: Any, tables: tuple[Tensor, Tensor], turns: tuple[Tensor, Tensor]) -> Any:
        """Return the tokens after attention, and the feed-forward's update to be gated by the second table."""
        words = tokens.shape[1] - turns[0].shape[0]
        mixed = self.out(self._attend(self.qkv(normed), turns, words))
        tokens, normed = self._gated(tokens, mixed, *tables, words, 2)
        raised = self.up(normed)
        return tokens, self.down(
            quantise(raised, True) if self.made.fp8 else functional.gelu(raised, approximate="tanh")
        )

    def _gated(self, tokens: Tensor, update: Tensor, before: Tensor, after: Tensor, words: int, at: int) -> Any:
        norm = self.norms[at], self.norms[at + 1]
        if not self.made.fp8:
            return modulate(tokens, update, before, after, *norm, words, self.epsilon)
        tokens, numbers, scale = modulate_8bit(tokens, update, before, after, *norm, words, self.epsilon)
        return tokens, (numbers, scale)

    def _attend(self, qkv: Tensor, turns: tuple[Tensor, Tensor], words: int) -> Tensor:
        query_weight, query_bias, key_weight, key_bias = list(self.norms)[4:]
        norms = (query_weight, query_bias, key_weight, key_bias)
        value = qkv.unflatten(-1, (3, self.heads, -1))[:, :, 2].transpose(1, 2)
        scale = value.shape[-1] ** -0.5
        if self.made.attention in ("8bit", "fp8"):
            rows, cosines, sines = (part[::CENTRE_STRIDE] for part in (qkv.transpose(0, 1)[words:], *turns))
            keys = plain_qk_norm_rope(rows.transpose(0, 1), *norms, cosines, sines, self.heads, self.qk_epsilon)[1]
            centre = keys.float().mean(2)
            parts = qk_norm_rope_8bit(qkv, *norms, *turns, centre, self.heads, self.qk_epsilon)
            if self.made.attention == "fp8":
                return attention_fp8(*parts, *quantise_values(value), scale).flatten(2)
            return attention_8bit(*parts, value, scale).flatten(2)
        query, key = qk_norm_rope(qkv, *norms, *turns, self.heads, self.qk_epsilon)
        if self.made.attention == "kernel":
            return attention(query, key, value, scale).flatten(2)
        return library_attention(query, key, value, scale).flatten(2)


class FusedTransformer(nn.Module):
    """`CogVideoXTransformer3DModel` with the forward that `models.denoisers.DenoiseEngine` calls, on fused kernels.

    The first and the last block, the embeddings, modulations and the output stay in the recipe's dtype under FP8.
    """

    still: Tensor

    def __init__(self, transformer: CogVideoXTransformer3DModel, made: Recipe) -> None:
        super().__init__()
        dense = Recipe(made.dtype, False, made.attention, made.loss)
        blocks = list(transformer.transformer_blocks)
        ends = (0, len(blocks) - 1)
        self.dtype, self.patch = made.dtype, transformer.config["patch_size"]
        self.time_proj = transformer.time_proj
        # Copies: `to` would change the given transformer.
        self.time_embedding = deepcopy(transformer.time_embedding).to(made.dtype)
        self.patch_embed = deepcopy(transformer.patch_embed).to(made.dtype)
        self.blocks = nn.ModuleList(Block(block, dense if i in ends else made) for i, block in enumerate(blocks))
        linears = [norm.linear for block in blocks for norm in (block.norm1, block.norm2)]
        linears.append(transformer.norm_out.linear)
        self.modulation = Dense(_join([p.weight for p in linears]), _join([_bias(p) for p in linears]), made.dtype)
        self.norms = nn.ParameterList(
            nn.Parameter(tensor.to(made.dtype), requires_grad=False)
            for norm in (transformer.norm_final, transformer.norm_out.norm)
            for tensor in (norm.weight, norm.bias)
        )
        self.epsilon = transformer.norm_final.eps
        self.output = Dense(transformer.proj_out.weight, _bias(transformer.proj_out), made.dtype)
        width = transformer.norm_final.weight.shape[0]
        self.register_buffer("still", transformer.norm_final.weight.new_zeros(2, 3, width, dtype=made.dtype))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor],
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Return the velocity, B T C H W in the dtype of ``hidden_states``; one ``timestep`` for the whole batch."""
        batch, frames, _, height, width = hidden_states.shape
        tokens = self.patch_embed(encoder_hidden_states.to(self.dtype), hidden_states.to(self.dtype))
        words = encoder_hidden_states.shape[1]
        tables, last = self._tables(timestep[:1])
        turns = tuple(table[:, ::2].contiguous() for table in image_rotary_emb)
        blocks: list[Any] = list(self.blocks)
        normed = blocks[0].first(tokens, tables[0], words)
        tokens, update = blocks[0](tokens, normed, (tables[0], tables[1]), turns)
        for index, block in enumerate(blocks[1:], 1):
            before, here = tables[2 * index - 1], (tables[2 * index], tables[2 * index + 1])
            tokens, normed = block.enter(tokens, update, before, here[0], words)
            tokens, update = block(tokens, normed, here, turns)
        _, normed = modulate(
            tokens,
            update,
            tables[2 * len(self.blocks) - 1],
            self.still,
            self.norms[0],
            self.norms[1],
            words,
            self.epsilon,
        )
        normed = modulate_first(normed[:, words:].contiguous(), last, self.norms[2], self.norms[3], 0, self.epsilon)
        patches = self.output(normed).view(
            batch, frames, height // self.patch, width // self.patch, -1, self.patch, self.patch
        )
        velocity = patches.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        return (velocity.to(hidden_states.dtype),)

    def _tables(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return every norm's table, (2 layers) x 2 x 3 x D, and the output's, 2 x 3 x D."""
        embedded = self.time_embedding(self.time_proj(timestep).to(self.dtype))
        numbers = self.modulation(functional.silu(embedded))[0]
        width = self.still.shape[-1]
        tables = numbers[: -2 * width].view(-1, 2, 3, width)
        last = functional.pad(numbers[-2 * width :].view(1, 2, width), (0, 0, 0, 1)).expand(2, -1, -1)
        return tables, last


def _join(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors)


def _bias(linear: Any) -> Tensor:
    return linear.bias if linear.bias is not None else linear.weight.new_zeros(linear.weight.shape[0])
