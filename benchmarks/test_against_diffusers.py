"""The same weights through diffusers' own pipeline and scheduler in the same run: the ratio is what counts."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")

from dvgwm.models.denoisers import denoise_engine
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.weights import load_parts
from dvgwm.runtime.denoise import Context
from dvgwm.runtime.noise import draw
from dvgwm.runtime.pipeline import silent
from dvgwm.runtime.profiler import Profiler

pytestmark = pytest.mark.torch


class GivenLatents(diffusers.CogVideoXImageToVideoPipeline):
    """diffusers' pipeline, started from our noise and our first-frame latents instead of its own VAE's."""

    def start_from(self, noise, image):
        self.given = noise, torch.cat([image, torch.zeros_like(noise[:, 1:])], 1)
        return self

    def prepare_latents(self, *arguments, **options):
        return self.given


class TellsCleanLatents(torch.nn.Module):
    """The transformer as the pipeline calls it, in the preset's form: its velocity follows from the clean latents it tells."""

    def __init__(self, network, engine):
        super().__init__()
        self.config, self.dtype, self.device, self.engine = network.config, network.dtype, network.device, engine
        self.cache_context = network.cache_context

    def forward(self, hidden_states, encoder_hidden_states, timestep, **_):
        state, image = hidden_states[:1].chunk(2, 2)
        return (self.engine(state, timestep[:1].float(), encoder_hidden_states, image[:, :1]),)


@pytest.fixture(scope="module")
def reference(bundle, pipeline):
    size = preset("a1_tiny")
    networks = build(size, 0)
    load_parts(networks, bundle.path)
    networks.preview.set_attn_processor(diffusers.models.attention_processor.CogVideoXAttnProcessor2_0())
    scheduler = diffusers.CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=size.sampling.preview_snr_shift,
        timestep_spacing="trailing",
    )
    engine = denoise_engine(networks.preview, size, False, networks)
    made = GivenLatents(None, None, None, TellsCleanLatents(networks.preview, engine), scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def test_preview(benchmark, record, reference, pipeline, observation, instruction):
    """Our preview takes at most 0.8 of diffusers' time, on the same weights, threads, precision, steps and guidance."""
    stages = {stage.spec.name: stage for stage in pipeline.stages}
    context = Context(0, Profiler(), silent)
    tensors = {"image": observation.images["scene"], "instruction": instruction}
    tensors |= stages["encode_text"].run(tensors, context) | stages["encode_low"].run(tensors, context)
    sampler = stages["preview"].spec.sampler
    noise = draw(0, "preview", 0, (*tensors["low_image"].shape[:1], 13, *tensors["low_image"].shape[2:]))
    image = observation.images["scene"]

    def theirs():
        reference.start_from(torch.from_numpy(noise.copy()), torch.from_numpy(tensors["low_image"]))
        return reference(
            image=torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255.0,
            height=64,
            width=96,
            num_frames=49,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            prompt_embeds=torch.from_numpy(tensors["text"]),
            negative_prompt_embeds=torch.from_numpy(tensors["text_empty"]),
            output_type="latent",
        ).frames.numpy()

    def ours():
        return stages["preview"].run(tensors, context)["low_latents"]

    def seconds(work):
        started = time.perf_counter()
        result = work()
        return time.perf_counter() - started, result

    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(5)]
    ratio = float(np.median([mine[0] / other[0] for mine, other in pairs]))
    error = float(np.abs(pairs[-1][0][1] - pairs[-1][1][1]).max())
    benchmark.pedantic(ours, rounds=1)
    figures = {
        "ratio": ratio,
        "ours_s": float(np.median([mine[0] for mine, _ in pairs])),
        "diffusers_s": float(np.median([other[0] for _, other in pairs])),
        "max_abs_error": error,
    }
    benchmark.extra_info |= figures
    record("preview against diffusers", **figures)
    assert error < 1e-3
    assert ratio <= 0.8
