"""Wan2.1-I2V: its networks, and as engines see them. LVP is the same with other weights.

A video transformer of flow matching under a text (UMT5), a picture (CLIP) and the latents of a video that begins with the
picture and goes on in grey (`wan_vae`). Interfaces are those of `engines`: latents B T C H W, the flow time tau from noise
(0) to clean (1).
"""

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from .graph import ATTENTION_OPSET, BRANCHES, Graph
from .sizes import Preset, Scaling, Vision
from .wan_vae import EncodeCondition

MASK = 4
"""Channels that tell which of a latent frame's four frames are given: all of the first's."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def build_transformer(preset: Preset) -> WanTransformer3DModel:
    """Return the transformer: state, mask and condition on channels, 3D RoPE of whole numbers."""
    dit, channels, vision = preset.preview, preset.codec.channels, preset.vision
    assert vision is not None, "a picture's encoder"
    transformer = WanTransformer3DModel(
        patch_size=(1, dit.patch, dit.patch),
        num_attention_heads=dit.heads,
        attention_head_dim=dit.head_width,
        in_channels=2 * channels + MASK,
        out_channels=channels,
        text_dim=preset.text.width,
        freq_dim=dit.time_embed,
        ffn_dim=dit.feed_forward,
        num_layers=dit.layers,
        image_dim=vision.width,
        added_kv_proj_dim=dit.heads * dit.head_width,
    )
    with torch.device("cpu"):  # constants, which a network without numbers has too
        transformer.rope = WanRotaryPosEmbed(dit.head_width, (1, dit.patch, dit.patch), 1024)
    for block in transformer.blocks:
        for attention in (block.attn1, block.attn2):
            attention.set_processor(Attention(preset.text.max_tokens))
    return transformer


def build_vision(size: Vision) -> CLIPVisionModel:
    """Return CLIP's picture encoder."""
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=size.width, intermediate_size=size.feed_forward, num_hidden_layers=size.layers,
            num_attention_heads=size.heads, image_size=size.image, patch_size=size.patch, projection_dim=1024,
            hidden_act="gelu",
        )
    )  # fmt: skip
    places = torch.arange((size.image // size.patch) ** 2 + 1, device="cpu")[None]  # a constant, as the rotary ones
    getattr(vision, "vision_model", vision).embeddings.register_buffer("position_ids", places, persistent=False)
    return vision


class Attention:
    """Wan's attention, rotated tokens computed at once instead of assigned in place, so that graphs stay clean."""

    def __init__(self, text_length: int) -> None:
        self.text_length = text_length

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return video tokens, B N D, after self attention, or after attention to the text and to the picture before it."""
        source, picture = hidden_states, None
        if encoder_hidden_states is not None:
            picture, source = encoder_hidden_states.split(
                [encoder_hidden_states.shape[1] - self.text_length, self.text_length], 1
            )
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        mixed = self._mixed(attn, query, key, attn.to_v(source), rotary_emb)
        if picture is not None:
            seen = attn.norm_added_k(attn.add_k_proj(picture)), attn.add_v_proj(picture)
            mixed = mixed + self._mixed(attn, query, *seen)
        out: Tensor = attn.to_out[0](mixed)
        return out

    def _mixed(
        self, attn: Any, query: Tensor, key: Tensor, value: Tensor, rotary: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (query, key, value))
        if rotary is not None:
            q, k = rotated(q, rotary), rotated(k, rotary)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Return queries or keys, B H N D, each pair of numbers turned; ``rotary`` is diffusers' 1 N 1 D."""
    cosines, sines = (values[:, :, :, ::2].transpose(1, 2) for values in rotary)
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([real * cosines - imaginary * sines, real * sines + imaginary * cosines], -1)
    return turned.flatten(-2).to(x.dtype)


class EncodeText(nn.Module):
    """Tokens int64 1 L to float32 embeddings 1 L D; those of padding are 0, as Wan's."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the last hidden state."""
        mask = (tokens != 0).long()
        return self.encoder(tokens, attention_mask=mask).last_hidden_state.float() * mask[..., None]


class EncodePicture(nn.Module):
    """An image, uint8 1 H W 3, to what CLIP sees in its middle: 1 1 D 1 N float32, the last layer but one."""

    mean: Tensor
    std: Tensor

    def __init__(self, vision: Any, size: Vision) -> None:
        super().__init__()
        self.vision, self.side = getattr(vision, "vision_model", vision), size.image
        self.dtype = next(vision.parameters()).dtype
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return the features of every patch, and the picture's own before them."""
        left = (image.shape[2] - self.side) // 2
        middle = image.float()[:, :, left : left + self.side].permute(0, 3, 1, 2) / 255.0
        x = self.vision.pre_layrnorm(self.vision.embeddings(((middle - self.mean) / self.std).to(self.dtype)))
        for layer in self.vision.encoder.layers[:-1]:
            out = layer(x, attention_mask=None)
            x = out[0] if isinstance(out, tuple) else out
        return x.float().transpose(1, 2)[:, None, :, None]


class Denoise(nn.Module):
    """State 1 T C H W, flow time 1, text G L D, condition 1 1 (T C) H W and picture 1 1 D 1 N to velocity G T C H W."""

    mask: Tensor

    def __init__(self, transformer: Any, latent_frames: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.transformer, self.dtype = transformer, transformer.patch_embedding.weight.dtype
        mask = torch.zeros(1, latent_frames, MASK, *grid)
        mask[:, 0] = 1.0
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, state: Tensor, time: Tensor, text: Tensor, image: Tensor, picture: Tensor) -> Tensor:
        """Return the velocity of every branch: towards the clean latents, where Wan's is towards the noise."""
        branches = text.shape[0]
        stacked = torch.cat([state, self.mask, image.view_as(state)], 2).transpose(1, 2)
        seen = picture[:, 0, :, 0].transpose(1, 2)
        (noise_ward,) = self.transformer(
            hidden_states=stacked.expand(branches, -1, -1, -1, -1).to(self.dtype),
            timestep=(1000.0 * (1.0 - time)).expand(branches),
            encoder_hidden_states=text.to(self.dtype),
            encoder_hidden_states_image=seen.expand(branches, -1, -1).to(self.dtype),
            return_dict=False,
        )
        return -noise_ward.float().transpose(1, 2)


def encoders(preset: Preset) -> dict[str, tuple[str, Scaling]]:
    """Return the picture's encoders: the denoiser's input that each is for, and the scale of what it gives."""
    scaling, frames = preset.preview_scaling, preset.latent_frames
    every = Scaling(scaling.mean * frames, scaling.std * frames)
    return {"encode_condition": ("image", every), "encode_picture": ("picture", Scaling((0.0,), (1.0,)))}


def graphs(preset: Preset, networks: Any) -> tuple[Graph, ...]:
    """Return the graphs from an instruction and an image to latents."""
    vision, grid, frames, channels = preset.vision, preset.grid(preset.low), preset.latent_frames, preset.codec.channels
    assert vision is not None
    tokens = torch.zeros(1, preset.text.max_tokens, dtype=torch.int64)
    tokens[0, :6] = torch.arange(3, 9)
    height, width = preset.low
    wide = max(vision.image, round(vision.image * width / height))
    patches = (vision.image // vision.patch) ** 2 + 1
    inputs = {
        "state": torch.zeros(1, frames, channels, *grid),
        "time": torch.tensor([0.5]),
        "text": torch.zeros(2, preset.text.max_tokens, preset.text.width),
        "image": torch.zeros(1, 1, frames * channels, *grid),
        "picture": torch.zeros(1, 1, vision.width, 1, patches),
    }
    denoise = Denoise(networks.preview, frames, grid)
    condition, picture = EncodeCondition(networks.codec, frames), EncodePicture(networks.vision, vision)
    return (
        Graph("text_encoder", EncodeText(networks.text), {"tokens": tokens}, ("text",)),
        Graph(
            "encode_condition", condition, {"image": torch.zeros(1, height, width, 3, dtype=torch.uint8)}, ("latents",)
        ),
        Graph(
            "encode_picture", picture, {"image": torch.zeros(1, vision.image, wide, 3, dtype=torch.uint8)}, ("latents",)
        ),
        Graph("preview", denoise, inputs, ("velocity",), {"text": BRANCHES}, opset=ATTENTION_OPSET),
    )
