"""Wan's networks as engines see them are diffusers' own pipeline, number by number."""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")

from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from dvgwm.models import wan
from dvgwm.models.engines import DecodeEngine
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.wan_vae import EncodeCondition, StreamingWan
from dvgwm.runtime.samplers.schedule import flow_times

pytestmark = pytest.mark.torch
SIZE = preset("test_wan")
GRID, CHANNELS, FRAMES = SIZE.grid(SIZE.low), SIZE.codec.channels, SIZE.latent_frames


@pytest.fixture(scope="module")
def networks():
    made = build(SIZE, 3)
    generator = torch.Generator().manual_seed(5)
    for part in (made.preview, made.codec):
        for tensor in part.parameters():  # norms at 1 and tables at 0 would hide what they do
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    return made


@pytest.fixture(scope="module")
def image():
    coarse = torch.randint(0, 256, (1, 4, 6, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)


class Given(WanImageToVideoPipeline):
    """diffusers' pipeline, told the noise, and the picture's features beside the picture."""

    def check_inputs(self, *arguments, **options):
        pass

    def prepare_latents(self, image, *arguments, **options):
        _, condition = super().prepare_latents(image, *arguments, **options)
        self.condition = condition
        return self.noise.transpose(1, 2), condition


def test_our_attention_is_diffusers(networks):
    generator = torch.Generator().manual_seed(2)
    state = torch.randn(2, 2 * CHANNELS + wan.MASK, 3, *GRID, generator=generator)
    text = torch.randn(2, 512, SIZE.text.width, generator=generator)  # the length that diffusers' own is written for
    picture = torch.randn(2, 5, SIZE.vision.width, generator=generator)
    inputs = {"hidden_states": state, "timestep": torch.tensor([321.0, 321.0]), "encoder_hidden_states": text}
    results = []
    attentions = [each for block in networks.preview.blocks for each in (block.attn1, block.attn2)]
    before = [each.processor for each in attentions]
    for processor in (wan.Attention(512), WanAttnProcessor()):
        for each in attentions:
            each.set_processor(processor)
        results.append(networks.preview(**inputs, encoder_hidden_states_image=picture, return_dict=False)[0])
    for each, processor in zip(attentions, before, strict=True):
        each.set_processor(processor)
    ours, theirs = results
    assert torch.allclose(ours, theirs, atol=1e-5)
    other = networks.preview(**inputs | {"timestep": torch.tensor([21.0, 21.0])}, encoder_hidden_states_image=picture)[
        0
    ]
    assert (other - ours).abs().max() > 1e-3


def test_a_streamed_decode_is_diffusers_whole_one(networks):
    latents = torch.randn(1, 4, CHANNELS, *GRID, generator=torch.Generator().manual_seed(7))
    decoder = StreamingWan(networks.codec)
    names = decoder.cache_names(CHANNELS, GRID)
    engines = [DecodeEngine(decoder, SIZE.preview_scaling, names, first, quantise=False) for first in (True, False)]
    frames, cache = [], ()
    for index in range(4):
        got, *cache = engines[index > 0](latents[:, index : index + 1], *cache)
        frames.append(got)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (SIZE.preview_scaling.mean, SIZE.preview_scaling.std)
    )
    whole = networks.codec.decode(latents.transpose(1, 2) * std + mean).sample
    wanted = whole.mul(0.5).add(0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)
    streamed = torch.cat(frames, 1)
    assert streamed.shape == wanted.shape == (1, 13, *SIZE.low, 3)
    assert torch.allclose(streamed, wanted, atol=1e-5)
    assert wanted.std() > 0.01


def test_the_condition_is_the_video_that_the_picture_begins(networks, image):
    video = torch.zeros(1, 3, SIZE.frames, *SIZE.low)
    video[:, :, 0] = image.permute(0, 3, 1, 2) / 127.5 - 1.0
    wanted = networks.codec.encode(video).latent_dist.mode().transpose(1, 2)
    got = EncodeCondition(networks.codec, FRAMES)(image).view_as(wanted)
    assert torch.allclose(got, wanted, atol=1e-5)
    assert (wanted[:, 1] - wanted[:, 0]).abs().max() > 1e-3


def test_the_picture_is_clips_last_layer_but_one(networks):
    generator = torch.Generator().manual_seed(1)
    side = SIZE.vision.image
    seen = torch.randint(0, 256, (1, side, side + 10, 3), generator=generator, dtype=torch.uint8)
    middle = seen[:, :, 5 : 5 + side].permute(0, 3, 1, 2) / 255.0
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (wan.CLIP_MEAN, wan.CLIP_STD))
    wanted = networks.vision((middle - mean) / std, output_hidden_states=True).hidden_states[-2]
    got = wan.EncodePicture(networks.vision, SIZE.vision)(seen)
    assert torch.allclose(got[:, 0, :, 0].transpose(1, 2), wanted, atol=1e-5)


def test_padding_has_no_text(networks):
    tokens = torch.zeros(1, SIZE.text.max_tokens, dtype=torch.int64)
    tokens[0, :5] = torch.tensor([7, 9, 30, 41, 1])
    got = wan.EncodeText(networks.text)(tokens)
    alone = networks.text(tokens[:, :5]).last_hidden_state
    assert torch.allclose(got[:, :5], alone, atol=1e-5)
    assert not got[:, 5:].any()


def test_our_steps_are_diffusers_pipeline(networks, image):
    """Noise to latents under guidance: diffusers' Euler flow, against our velocity and times."""
    generator = torch.Generator().manual_seed(9)
    steps, guidance, shift = 3, 5.0, SIZE.sampling.preview_time_shift
    noise = torch.randn(1, FRAMES, CHANNELS, *GRID, generator=generator)
    tokens = torch.zeros(1, SIZE.text.max_tokens, dtype=torch.int64)
    tokens[0, :4] = torch.tensor([7, 9, 30, 1])
    text = torch.cat(
        [wan.EncodeText(networks.text)(words) for words in (torch.ones_like(tokens) * (tokens == 1), tokens)]
    )
    picture = wan.EncodePicture(networks.vision, SIZE.vision)(image[:, 2:30])
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipeline = Given(None, None, networks.codec, scheduler, None, None, networks.preview)
    pipeline.noise = noise
    pipeline.set_progress_bar_config(disable=True)
    sigmas = 1.0 - flow_times(steps, 1.0)[:-1]
    set_timesteps = scheduler.set_timesteps
    scheduler.set_timesteps = lambda count, device: set_timesteps(sigmas=sigmas.tolist(), device=device)
    wanted = pipeline(
        image=image[0].permute(2, 0, 1)[None] / 255.0, height=SIZE.low[0], width=SIZE.low[1], num_frames=SIZE.frames,
        num_inference_steps=steps, guidance_scale=guidance, prompt_embeds=text[1:], negative_prompt_embeds=text[:1],
        image_embeds=picture[:, 0, :, 0].transpose(1, 2), output_type="latent",
    ).frames.transpose(1, 2)  # fmt: skip
    scaling = wan.encoders(SIZE)["encode_condition"][1]
    raw = EncodeCondition(networks.codec, FRAMES)(image)
    condition = (raw - torch.tensor(scaling.mean).view(-1, 1, 1)) / torch.tensor(scaling.std).view(-1, 1, 1)
    assert torch.allclose(pipeline.condition[:, wan.MASK :].transpose(1, 2), condition.view_as(noise), atol=1e-5)
    engine, state, times = wan.Denoise(networks.preview, FRAMES, GRID), noise, flow_times(steps, shift)
    for now, following in pairwise(times):
        empty, told = engine(state, torch.tensor([now], dtype=torch.float32), text, condition, picture).unsqueeze(1)
        state = state + float(following - now) * (empty + guidance * (told - empty))
    assert torch.allclose(state, wanted, atol=1e-4)
    assert (wanted - noise).abs().max() > 0.1
