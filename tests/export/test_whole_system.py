"""One observation through our pipeline, and through a plain script of diffusers' own parts: the same plan and actions."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")

from PIL import Image
from torch.nn import functional

from dvgwm.export.describe import describe
from dvgwm.export.graphs import graphs
from dvgwm.export.interface import engine_spec
from dvgwm.export.stored import Held
from dvgwm.export.verify import torch_backend
from dvgwm.models.dit import rotary_positions
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.bundle.manifest import FileRecord, ModelCard
from dvgwm.runtime.noise import draw
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.types import Observation

pytestmark = pytest.mark.torch
SIZE, SEED, WORDS = preset("test_tiny"), 11, "put the banana into the bowl"
LOW, HIGH = 0.7, 1.15258426


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(5).integers(0, 256, (8, 12, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1))


@pytest.fixture(scope="module")
def ours(tmp_path_factory, image):
    networks = build(SIZE, 0)
    parts = graphs(SIZE, networks)
    card = ModelCard(SIZE.name, SIZE.family, "seeded", False, Held(networks, networks).hashes({}))
    manifest = describe(SIZE, {part.name: engine_spec(part) for part in parts}, card, "onnx", "float32", {})
    listed = {part.file: FileRecord(0, "") for part in parts}
    bundle = Bundle(tmp_path_factory.mktemp("draft"), replace(manifest, files=listed))
    seen = [Observation({"scene": image}, np.zeros(7), 0.0)]
    with Pipeline(bundle, torch_backend(parts)) as pipeline:
        plan = pipeline.imagine(seen, WORDS, SEED)
        return plan, pipeline.act(plan, seen, WORDS)


class GivenLatents(diffusers.CogVideoXImageToVideoPipeline):
    def prepare_latents(self, *arguments, **options):
        return self.given


def embed(networks, words):
    tokens = torch.zeros(1, SIZE.text.max_tokens, dtype=torch.int64)
    values = [byte + 3 for byte in words.encode()] + [1]
    tokens[0, : len(values)] = torch.tensor(values)
    return networks.text(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state


def encode(networks, image, size):
    small = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS))
    frame = torch.from_numpy(small.copy()).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    return networks.codec.encode(frame).latent_dist.mode().transpose(1, 2)


def first_frame(latents):
    return torch.cat([latents, torch.zeros_like(latents).expand(-1, 12, -1, -1, -1)], 1)


def preview(networks, image):
    scheduler = diffusers.CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
    )
    transformer = networks.preview
    transformer.set_attn_processor(diffusers.models.attention_processor.CogVideoXAttnProcessor2_0())
    pipe = GivenLatents(None, None, None, transformer, scheduler)
    pipe.set_progress_bar_config(disable=True)
    pipe.given = (
        torch.from_numpy(draw(SEED, "preview", 0, (1, 13, 4, 4, 6))),
        first_frame(encode(networks, image, SIZE.low) * LOW),
    )
    return pipe(
        image=torch.zeros(1, 3, *SIZE.low),
        height=SIZE.low[0],
        width=SIZE.low[1],
        num_frames=49,
        num_inference_steps=SIZE.sampling.preview_steps,
        guidance_scale=6.0,
        prompt_embeds=embed(networks, WORDS),
        negative_prompt_embeds=embed(networks, ""),
        output_type="latent",
    ).frames


def refine(networks, image, low):
    """Eq. A.8 and Eq. 5, as written."""
    raised = functional.interpolate((low * HIGH / LOW)[0], scale_factor=2, mode="bilinear", align_corners=False)[None]
    alpha = float(
        diffusers.CogVideoXDDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
        ).alphas_cumprod[200]
        ** 0.5
    )
    z = alpha * raised + (1 - alpha**2) ** 0.5 * torch.from_numpy(draw(SEED, "bridge", 0, tuple(raised.shape)))
    networks.refiner.set_attn_processor(diffusers.models.attention_processor.CogVideoXAttnProcessor2_0())
    positions = rotary_positions(SIZE.refiner, SIZE.grid(SIZE.high), 13)
    condition, text = first_frame(encode(networks, image, SIZE.high) * HIGH), embed(networks, WORDS)
    for k in range(4):
        time = torch.tensor([1000 * (1 - k / 4)])
        state = torch.cat([z, condition, raised], 2)
        z = z + networks.refiner(state, text, time, image_rotary_emb=positions, return_dict=False)[0] / 4
    return z


def act(networks, frames):
    """Chunks every fourth frame, shown three frames each, four samples averaged, DDIM with diffusers' scheduler."""
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="epsilon", clip_sample=True
    )
    scheduler.set_timesteps(SIZE.sampling.policy_steps)
    shown = [networks.frame_encoder(torch.from_numpy(frames[[n, n + 4, n + 8]])).flatten() for n in range(0, 41, 4)]
    features = torch.stack(shown * 4)
    state = torch.from_numpy(draw(SEED, "act", 0, (44, 16, 7)))
    for time in scheduler.timesteps:
        epsilon = networks.policy(state, time.expand(44).float(), features)
        state = scheduler.step(epsilon, time, state).prev_sample
    samples, rows = state.unflatten(0, (4, 11)).numpy(), [[] for _ in range(48)]
    for chunk, start in enumerate(range(0, 41, 4)):
        ways = samples[:, chunk]
        best = ways.mean(0)
        if np.sqrt(ways.var(0).mean()) > SIZE.policy.medoid_above:
            best = min(ways, key=lambda way: sum(((way - other) ** 2).sum() for other in ways))
        for place in range(min(16, 48 - start)):
            rows[start + place].append((best[place], SIZE.policy.blend[place]))
    lower, upper = np.asarray(SIZE.actions.lower), np.asarray(SIZE.actions.upper)
    return lower + (np.stack([sum(w * a for a, w in row) / sum(w for _, w in row) for row in rows]) + 1) / 2 * (
        upper - lower
    )


@pytest.fixture(scope="module")
def theirs(image):
    networks = build(SIZE, 0)
    with torch.no_grad():
        low = preview(networks, image)
        high = refine(networks, image, low)
        video = networks.codec.decode((high / HIGH).transpose(1, 2)).sample[0]
        frames = ((video * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
        return low.numpy(), high.numpy(), frames, act(networks, frames)


def test_the_preview_is_diffusers_pipelines(ours, theirs):
    assert np.abs(ours[0].latents["low_latents"] - theirs[0]).max() < 1e-4


def test_the_refined_latents_are_the_papers_equations(ours, theirs):
    assert np.abs(ours[0].latents["high_latents"] - theirs[1]).max() < 1e-4


def test_the_frames_are_the_vaes(ours, theirs):
    assert ours[0].frames.shape == theirs[2].shape == (49, 64, 96, 3)
    assert np.abs(ours[0].frames.astype(int) - theirs[2]).max() <= 1
    assert theirs[2].std() > 5, "a flat video would prove nothing"


def test_the_actions_are_the_policys(ours, theirs):
    span = np.asarray(SIZE.actions.upper) - np.asarray(SIZE.actions.lower)
    assert ours[1].actions.shape == (48, 7)
    assert (np.abs(ours[1].actions - theirs[3]) / span).max() < 1e-3
    assert (np.ptp(theirs[3], 0) / span).min() > 0.03
