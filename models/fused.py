"""CogVideoX's transformer in as few passes over its tokens as the arithmetic allows, on the kernels of `dvgwm.kernels`.

The same weights give the same velocity as `models.dit`'s transformer. The differences: text and video tokens lie in one tensor
from first to last; queries, keys and values come from one product; the modulations of all layers from one product (every
branch is at the same time), made once for all steps; norm, positions, gates and residuals are fused kernels.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

from dvgwm.kernels.attention import attention, library_attention
from dvgwm.kernels.attention_8bit import attention_8bit
from dvgwm.kernels.modulate import modulate
from dvgwm.kernels.qk_norm_rope import plain_qk_norm_rope, qk_norm_rope, qk_norm_rope_fp8
from dvgwm.kernels.quantise import quantise, quantise_rows
from dvgwm.kernels.scaled_linear import scaled_linear

from .precision import Precision

CENTRE_STRIDE = 32
"""Every 32nd video token's key makes the centre for 8-bit attention: any centre is exact, a near one precise."""

Normed = Tensor | tuple[Tensor, Tensor]
"""Tokens after a norm: numbers, or FP8 numbers and their scales."""


class LinearPlain(nn.Module):
    """A linear layer of given weights in ``dtype``."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        self.bias = nn.Parameter(bias.to(dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b``."""
        return functional.linear(x, self.weight, self.bias)


class LinearFp8(nn.Module):
    """A linear layer with FP8 weights, a scale per output channel; takes quantised tokens, or quantises them itself."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        numbers, scale = quantise_rows(weight)
        self.register_buffer("weight", numbers)
        self.register_buffer("scale", scale)
        self.bias = nn.Parameter(bias.to(dtype), requires_grad=False)

    def forward(self, x: Normed) -> Tensor:
        """Return ``x W^T + b`` of tokens B S K, or of FP8 tokens and their scales."""
        tokens, scale = quantise(x, False) if isinstance(x, Tensor) else x
        return scaled_linear(tokens, scale, self.weight, self.scale, self.bias)


class Block(nn.Module):
    """One transformer block on joint tokens, text first."""

    def __init__(self, block: Any, precision: Precision) -> None:
        super().__init__()
        attn, dtype = block.attn1, precision.dtype
        linear = LinearFp8 if precision.fp8 else LinearPlain
        projections = attn.to_q, attn.to_k, attn.to_v
        self.precision, self.heads = precision, attn.heads
        self.qkv = linear(torch.cat([p.weight for p in projections]), torch.cat([_bias(p) for p in projections]), dtype)
        self.out = linear(attn.to_out[0].weight, _bias(attn.to_out[0]), dtype)
        self.up = linear(block.ff.net[0].proj.weight, _bias(block.ff.net[0].proj), dtype)
        self.down = linear(block.ff.net[2].weight, _bias(block.ff.net[2]), dtype)
        self.norms = _norm_parameters((block.norm1.norm, block.norm2.norm, attn.norm_q, attn.norm_k), dtype)
        self.epsilon, self.qk_epsilon = block.norm1.norm.eps, attn.norm_q.eps
        query, key = (self.norms[first : first + 2] for first in (4, 6))
        self.scale = (self.qkv.bias.numel() // (3 * attn.heads)) ** -0.5
        self.bound = score_bound(query, key, self.scale)

    def enter(
        self, tokens: Tensor, update: Tensor | None, before: Tensor, after: Tensor, text_length: int
    ) -> tuple[Tensor, Normed]:
        """Return the tokens with the last block's update, if there is one, and normalised for attention."""
        return self._modulated(tokens, update, before, after, text_length, 0)

    def forward(
        self, tokens: Tensor, normed: Normed, modulations: tuple[Tensor, Tensor], rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens after attention, and the feed-forward's update, yet to be gated by the second modulation."""
        text_length = tokens.shape[1] - rotary[0].shape[0]
        mixed = self.out(self._attend(self.qkv(normed), rotary, text_length))
        tokens, normed = self._modulated(tokens, mixed, *modulations, text_length, 2)
        raised = self.up(normed)
        if self.precision.fp8:
            return tokens, self.down(quantise(raised, True))
        return tokens, self.down(functional.gelu(raised, approximate="tanh"))

    def _modulated(
        self, tokens: Tensor, update: Tensor | None, before: Tensor, after: Tensor, text_length: int, norm: int
    ) -> tuple[Tensor, Normed]:
        weight, bias = self.norms[norm], self.norms[norm + 1]
        fp8 = self.precision.fp8
        summed, normed, scale = modulate(tokens, update, before, after, weight, bias, text_length, self.epsilon, fp8)
        return (tokens if update is None else summed), ((normed, scale) if fp8 else normed)

    def _attend(self, qkv: Tensor, rotary: tuple[Tensor, Tensor], text_length: int) -> Tensor:
        norms = self.norms[4], self.norms[5], self.norms[6], self.norms[7]
        value = qkv.unflatten(-1, (3, self.heads, -1))[:, :, 2].transpose(1, 2)
        kind = self.precision.attention
        if kind in ("8bit", "fp8"):
            rows, cosines, sines = (x[::CENTRE_STRIDE] for x in (qkv.transpose(0, 1)[text_length:], *rotary))
            sampled = rows.transpose(0, 1)
            keys = plain_qk_norm_rope(sampled, *norms, cosines, sines, None, self.heads, self.qk_epsilon)[1]
            centre = keys.float().mean(2)
            normed = qk_norm_rope_fp8 if kind == "fp8" else qk_norm_rope
            query, key, query_scale, key_scale, *values = normed(
                qkv, *norms, *rotary, centre, self.heads, self.qk_epsilon
            )
            return attention_8bit(query, query_scale, key, key_scale, *(values or (value, None)), self.scale).flatten(2)
        query, key, _, _ = qk_norm_rope(qkv, *norms, *rotary, None, self.heads, self.qk_epsilon)
        if kind == "kernel":
            return attention(query, key, value, self.scale, self.bound).flatten(2)
        return library_attention(query, key, value, self.scale).flatten(2)


class Modulations(nn.Module):
    """Every norm's modulation at a time, of all layers and of the output, from one product."""

    def __init__(self, transformer: CogVideoXTransformer3DModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.time_proj = dtype, transformer.time_proj
        first, second = transformer.time_embedding.linear_1, transformer.time_embedding.linear_2
        self.time_embedding = nn.Sequential(
            LinearPlain(first.weight, _bias(first), dtype), nn.SiLU(), LinearPlain(second.weight, _bias(second), dtype)
        )
        linears = [norm.linear for block in transformer.transformer_blocks for norm in (block.norm1, block.norm2)]
        linears.append(transformer.norm_out.linear)
        weight, bias = (torch.cat(tensors) for tensors in zip(*((p.weight, _bias(p)) for p in linears), strict=True))
        self.linear = LinearPlain(weight, bias, dtype)

    def forward(self, timestep: Tensor) -> Tensor:
        """Return 1 x M for a ``timestep`` of one number: (2 layers) x 2 x 3 x D of the norms, then the output's 2 x D."""
        embedded = self.time_embedding(self.time_proj(timestep).to(self.dtype))
        return self.linear(functional.silu(embedded))


class FusedTransformer(nn.Module):
    """`CogVideoXTransformer3DModel` with the forward for `models.denoisers.DenoiseEngine`, on fused kernels.

    The first and the last block, the embeddings, modulations and the output stay in the precision's dtype under FP8. If it is
    ``modulated``, its forward is given the modulations, and it has no weights for them: they depend on nothing but the time.
    """

    no_modulation: Tensor

    def __init__(self, transformer: CogVideoXTransformer3DModel, precision: Precision, modulated: bool = False) -> None:
        super().__init__()
        dtype = precision.dtype
        blocks = list(transformer.transformer_blocks)
        kinds = [precision] * len(blocks)
        kinds[0] = kinds[-1] = replace(precision, fp8=False)
        self.dtype, self.patch = dtype, transformer.config["patch_size"]
        self.modulations = None if modulated else Modulations(transformer, dtype)
        # A copy: `to` would change the given transformer.
        self.patch_embed = deepcopy(transformer.patch_embed).to(dtype)
        self.blocks = nn.ModuleList(Block(block, kind) for block, kind in zip(blocks, kinds, strict=True))
        self.norms = _norm_parameters((transformer.norm_final, transformer.norm_out.norm), dtype)
        self.epsilon = transformer.norm_final.eps
        self.output = LinearPlain(transformer.proj_out.weight, _bias(transformer.proj_out), dtype)
        width = transformer.norm_final.weight.shape[0]
        self.register_buffer("no_modulation", transformer.norm_final.weight.new_zeros(2, 3, width, dtype=dtype))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor],
        return_dict: bool = False,
        modulation: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Return the velocity, B T C H W in the dtype of ``hidden_states``; one ``timestep`` for the whole batch.

        ``modulation`` is of `Modulations` at this time, None to have it computed here.
        """
        batch, frames, _, height, width = hidden_states.shape
        tokens = self.patch_embed(encoder_hidden_states.to(self.dtype), hidden_states.to(self.dtype))
        text_length = encoder_hidden_states.shape[1]
        if modulation is None:
            assert self.modulations is not None, "a modulation, or the weights for it"
            modulation = self.modulations(timestep[:1])
        modulations, output_modulation = self._parted(modulation[0])
        rotary = tuple(x[:, ::2].contiguous() for x in image_rotary_emb)
        update, before = None, modulations[0]
        blocks: list[Any] = list(self.blocks)
        for block, pair in zip(blocks, modulations.unflatten(0, (-1, 2)), strict=True):
            tokens, normed = block.enter(tokens, update, before, pair[0], text_length)
            tokens, update = block(tokens, normed, (pair[0], pair[1]), rotary)
            before = pair[1]
        final, out = (self.norms[0], self.norms[1]), (self.norms[2], self.norms[3])
        _, normed, _ = modulate(tokens, update, before, self.no_modulation, *final, text_length, self.epsilon, False)
        video = normed[:, text_length:].contiguous()
        _, normed, _ = modulate(video, None, output_modulation, output_modulation, *out, 0, self.epsilon, False)
        patch = self.patch
        patches = self.output(normed).view(batch, frames, height // patch, width // patch, -1, patch, patch)
        velocity = patches.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        return (velocity.to(hidden_states.dtype),)

    def _parted(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return every norm's modulation, (2 layers) x 2 x 3 x D, and the output's, 2 x 3 x D."""
        width = self.no_modulation.shape[-1]
        modulations = numbers[: -2 * width].view(-1, 2, 3, width)
        output = functional.pad(numbers[-2 * width :].view(1, 2, width), (0, 0, 0, 1)).expand(2, -1, -1)
        return modulations, output


def score_bound(query: Iterable[Tensor], key: Iterable[Tensor], scale: float) -> float | None:
    """Return the largest possible score after norms of these weights and biases, None if they have no numbers.

    LayerNorm makes vectors of a length of at most sqrt(D); its weight stretches them and its bias adds to them, positions turn
    them. Rounding to 16 bits adds 2^-8 of each.
    """
    tensors = (*query, *key)
    if any(tensor.is_meta or isinstance(tensor, FakeTensor) for tensor in tensors):
        return None
    lengths = [
        weight.numel() ** 0.5 * float(weight.detach().abs().max()) + float(bias.detach().float().norm())
        for weight, bias in (query, key)
    ]
    return scale * lengths[0] * lengths[1] * (1 + 2**-8) ** 2


def _norm_parameters(norms: tuple[Any, ...], dtype: torch.dtype) -> nn.ParameterList:
    """Return weight and bias of every norm in a row."""
    tensors = [tensor for norm in norms for tensor in (norm.weight, norm.bias)]
    return nn.ParameterList(nn.Parameter(tensor.to(dtype), requires_grad=False) for tensor in tensors)


def _bias(linear: Any) -> Tensor:
    return linear.bias if linear.bias is not None else linear.weight.new_zeros(linear.weight.shape[0])
