"""A linear layer in FP8: one scale per token and one per output channel (row-wise scaled matrix product)."""

import torch
from torch import Tensor

from .operator import operator, wide_dtype


def plain_scaled_linear(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    """Return ``(x x_scale) (weight weight_scale)^T + bias`` in the bias's dtype; the twin of `compiled_scaled_linear`.

    ``x`` is float8_e4m3fn B S K with scales B S, ``weight`` float8_e4m3fn N K with scales N, ``bias`` N.
    """
    wide = wide_dtype(bias.dtype)
    activation = x.to(wide) * x_scale.to(wide)[..., None]
    dense = weight.to(wide) * weight_scale.to(wide)[:, None]
    return torch.nn.functional.linear(activation, dense, bias.to(wide)).to(bias.dtype)


def compiled_scaled_linear(x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    """`plain_scaled_linear` on FP8 matrix units, through torch's own scaled product; bfloat16."""
    rows = x.flatten(0, -2)
    product = torch._scaled_mm(
        rows,
        weight.t(),
        x_scale.reshape(-1, 1),
        weight_scale.reshape(1, -1),
        bias=bias,
        out_dtype=bias.dtype,
        use_fast_accum=True,
    )
    return product.unflatten(0, x.shape[:-1])


scaled_linear = operator(plain_scaled_linear, compiled_scaled_linear)
