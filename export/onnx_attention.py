"""The transformer that exported graphs have: ONNX's own operators for positions and for attention."""

import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn

from dvgwm.models.dit import JointAttention


class OperatorAttention(JointAttention):
    """`JointAttention` with ONNX's own RotaryEmbedding, exactly equal to it; for inference only.

    Text tokens get a rotation by nothing, so that no token has to be cut out and put back: 62 ms against 70 ms for a
    preview step of a1_tiny in ONNX Runtime.
    """

    def rotated(self, x: Tensor, rotary: tuple[Tensor, Tensor], text_length: int) -> Tensor:
        """Return queries or keys, B H S D, turned by their places in float32; ``rotary`` is of all tokens, B S D/2 each."""
        return torch.onnx.ops.rotary_embedding(x.float(), *rotary, interleaved=True).to(x.dtype)


class OperatorTransformer(nn.Module):
    """A transformer with `OperatorAttention`: it takes and gives float32, whatever dtype it computes in."""

    def __init__(self, transformer: CogVideoXTransformer3DModel) -> None:
        super().__init__()
        self.transformer, self.dtype = transformer, transformer.dtype
        transformer.set_attn_processor(OperatorAttention())

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor],
        return_dict: bool,
    ) -> tuple[Tensor]:
        """Return diffusers' output; its positions are laid out for the operator once, for all layers."""
        rotary = _of_all_tokens(image_rotary_emb, *encoder_hidden_states.shape[:2])
        (velocity,) = self.transformer(
            hidden_states=hidden_states.to(self.dtype),
            encoder_hidden_states=encoder_hidden_states.to(self.dtype),
            timestep=timestep,
            image_rotary_emb=rotary,
            return_dict=return_dict,
        )
        return (velocity.float(),)


def _of_all_tokens(rotary: tuple[Tensor, Tensor], batch: int, text_length: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, B (L + N) D/2: diffusers' N D without their repeats, behind the text's."""
    halves = ((values[:, ::2], unrotated) for values, unrotated in zip(rotary, (1, 0), strict=True))
    cosines, sines = (
        torch.cat([half.new_full((text_length, half.shape[1]), unrotated), half]).expand(batch, -1, -1)
        for half, unrotated in halves
    )
    return cosines, sines
