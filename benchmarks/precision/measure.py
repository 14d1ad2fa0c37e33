"""The figures of one bundle beside the float32 one."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from dvgwm.export.assembly import source_hash
from dvgwm.export.linear_layers import block_of
from dvgwm.models.codec import LinearCodec
from dvgwm.models.hollow import hollow, slots
from dvgwm.models.precision import GRAPH_PRECISIONS
from dvgwm.models.presets import preset
from dvgwm.robots.kinematics import rotation_matrix
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config.plugins import load_robot, open_backend, open_simulation, simulation_of
from dvgwm.runtime.pipeline import Pipeline

SIZE = preset("a1_tiny")
LAYOUTS = 970000
"""The first of the layouts whose scenes are compared: none is trained on, calibrated on, or played below."""


def code() -> str:
    """Return a hash of the code that makes the graphs and of the weights that ship."""
    shipped = Path(__file__).parents[2] / "runtime" / "bundles" / "a1_tiny" / "manifest.json"
    return hashlib.sha256(source_hash().encode() + shipped.read_bytes()).hexdigest()[:12]


def sizes(name: str, bundle: Path, plain: Path) -> dict:
    """Return bytes of weights, and the share of what they are in float32: of the two transformers, and of all."""
    parts = {path.stem for path in plain.glob("*.safetensors")}
    exact = {
        part: sum(4 * tensor.numel() for tensor in load_file(plain / f"{part}.safetensors").values()) for part in parts
    }
    stored = {path.stem: path.stat().st_size for path in bundle.glob("*.safetensors")}
    renamed = {"refine": "refiner"}  # torch packages have a file of weights each
    stored = {renamed.get(part, part): size for part, size in stored.items()}
    denoisers = ("preview", "refiner")
    return {
        "full_size_share": full_size_share(name),
        "weights_bytes": sum(stored.values()),
        "denoiser_share": sum(stored[part] for part in denoisers) / sum(exact[part] for part in denoisers),
        "share": sum(stored.values()) / sum(exact.values()),
    }


def full_size_share(name: str, large: str = "dvgwm_5b") -> float:
    """Return what share of float32's weights a large preset's transformers would be in a precision, counted from shapes."""
    kind, networks, numbers, eight = GRAPH_PRECISIONS[name], hollow(preset(large)), 0, 0
    for network in (networks.preview, networks.refiner):
        for tensor, slot in slots(network).items():
            numbers += slot.numbers
            eight += slot.numbers * bool(kind.linear and block_of(tensor, slot.shape) is not None)
    return (eight + (numbers - eight) * kind.dtype.itemsize) / (4 * numbers)


def fidelity(bundle: Path, plain: Path, count: int) -> dict:
    """Return how far plans and actions of ``count`` scenes are from those in float32, and the gates that were passed."""
    spec = load_robot("galaxea_a1")
    simulation = simulation_of(spec)
    expected = []
    with opened(plain) as pipeline:
        for index in range(count):
            arm = open_simulation(spec, simulation.tasks[index % len(simulation.tasks)], LAYOUTS + index, pipeline)
            scene = arm.observe(), arm.scene.instruction
            arm.close()
            expected.append((scene, *planned(pipeline, *scene, index)))
    low = codec(plain)
    position_mm, rotation_deg, gripper, psnr = [], [], [], {"low": [], "high": []}
    with opened(bundle) as pipeline:
        for index, (scene, plan, actions) in enumerate(expected):
            here, got = planned(pipeline, *scene, index)
            position_mm.append(1e3 * np.linalg.norm(got[:, :3] - actions[:, :3], axis=1).max())
            rotation_deg.append(max(angle_deg(a, b) for a, b in zip(got[:, 3:6], actions[:, 3:6], strict=True)))
            gripper.append(np.abs(got[:, 6] - actions[:, 6]).max())
            psnr["high"].append(psnr_db(plan.frames, here.frames))
            psnr["low"].append(psnr_db(*(pixels(low, each.latents["low_latents"]) for each in (plan, here))))
    manifest = read_bundle(bundle).manifest
    return {
        "scenes": count,
        "position_mm": spread(position_mm),
        "rotation_deg": spread(rotation_deg),
        "gripper": spread(gripper),
        "psnr_db": {
            size: {"median": float(np.median(values)), "least": float(min(values))} for size, values in psnr.items()
        },
        "parity": {
            name: {"cosine": part.cosine, "relative_l2": part.relative_l2} for name, part in manifest.parity.items()
        },
        "each_mm": [round(float(value), 3) for value in position_mm],
    }


def opened(bundle: Path) -> Pipeline:
    """Return the bundle on its own backend."""
    read = read_bundle(bundle)
    return Pipeline(read, open_backend(read.manifest.backend, None))


def planned(pipeline: Pipeline, observation, instruction: str, seed: int) -> tuple:
    """Return the plan of a scene and its actions."""
    plan = pipeline.imagine([observation], instruction, seed)
    return plan, pipeline.act(plan, [observation], instruction).actions


def codec(plain: Path) -> LinearCodec:
    """Return what decodes the preview's own latents, which the pipeline never shows."""
    made = LinearCodec(SIZE.codec.patch, SIZE.codec.channels)
    made.load_state_dict({name: tensor.float() for name, tensor in load_file(plain / "low_codec.safetensors").items()})
    return made


def pixels(low: LinearCodec, latents: np.ndarray) -> np.ndarray:
    """Return the preview's frames, uint8 T H W 3."""
    scaling = SIZE.preview_scaling
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (scaling.mean, scaling.std))
    frames = low.decode((torch.from_numpy(latents) * std + mean).transpose(1, 2))
    return ((frames[0] * 0.5 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 3, 0).numpy()


def psnr_db(expected: np.ndarray, got: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio over all frames; 88 dB where they are equal."""
    error = np.mean((expected.astype(float) - got) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-4)))


def angle_deg(left: np.ndarray, right: np.ndarray) -> float:
    """Return the angle between two rotation vectors' rotations."""
    turned = rotation_matrix(left).T @ rotation_matrix(right)
    return float(np.degrees(np.arccos(np.clip((np.trace(turned) - 1) / 2, -1, 1))))


def spread(values: list) -> dict:
    """Return the median, what 19 of 20 are within, and the largest."""
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95)), "largest": float(max(values))}


def closed_loop(bundle: Path, episodes: int, seed: int) -> dict:
    """Return the success rates that `dvgwm-runtime evaluate` gives."""
    run = "import sys; from dvgwm.runtime.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "evaluate", "--bundle", str(bundle), "--episodes", str(episodes)]
    command += ["--seed", str(seed), "--plan-time", "0", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3600)
    told = json.loads(done.stdout.splitlines()[-1])
    kept = ("episodes", "seed", "success_rate", "success_rate_by_task", "object_accuracy", "stopped")
    return {name: told[name] for name in kept}
