"""A lab's checkpoint of `test_tiny`, as diffusers and transformers write it."""

from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Lab:
    """Where a pipeline lies, and the networks that were saved into it."""

    base: Path
    networks: object


@pytest.fixture(scope="session")
def saved_lab(tmp_path_factory):
    """A pipeline on disk, saved once."""
    torch = pytest.importorskip("torch", reason="the export extra is not installed")
    diffusers = pytest.importorskip("diffusers", reason="the export extra is not installed")
    from dvgwm.models.networks import build
    from dvgwm.models.presets import preset

    base, networks = tmp_path_factory.mktemp("lab") / "base", build(preset("test_tiny"), 21)
    networks.codec.register_to_config(scaling_factor=0.7)
    networks.preview.to(torch.bfloat16).save_pretrained(base / "transformer", max_shard_size="300KB")
    networks.codec.save_pretrained(base / "vae")
    networks.text.save_pretrained(base / "text_encoder")
    scheduler = diffusers.CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
    )
    scheduler.save_pretrained(base / "scheduler")
    return Lab(base, networks)


@pytest.fixture
def lab(saved_lab, tmp_path):
    """A copy that a test may spoil."""
    import shutil

    shutil.copytree(saved_lab.base, tmp_path / "base")
    return Lab(tmp_path / "base", saved_lab.networks)
