"""A lab's checkpoint in diffusers' layout: what each of its folders has to be, checked before any weight is read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from dvgwm.models.checkpoints import Files, files_of, listed, read_object, together
from dvgwm.models.hollow import Slot
from dvgwm.models.networks import Networks
from dvgwm.models.sizes import Preset
from dvgwm.runtime.errors import ConfigError

INDEX = ".index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NO_MATTER = {
    "dropout", "dropout_rate", "sample_width", "sample_height", "sample_frames", "spatial_interpolation_scale",
    "temporal_interpolation_scale", "use_learned_positional_embeddings", "scaling_factor", "force_upcast",
}  # fmt: skip
"""Settings of training, of learned positions (which DVG-WM drops), and what is checked against the preset's own scale."""
_T5 = (
    "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size", "relative_attention_num_buckets",
    "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj",
)  # fmt: skip
_CLIP = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
)
_SPARE = frozenset({"patch_embed.pos_embedding", *(f"blocks.{layer}.attn2.norm_added_q.weight" for layer in range(40))})
"""CogVideoX-5B-I2V's learned positions, and what Wan's checkpoints have and its network never uses."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A pipeline's folder: which ``part`` it has, in files of which ``stem``, and what its ``config.json`` has to say."""

    name: str
    part: str
    stem: str
    settings: Mapping[str, Any]
    spare: frozenset[str] = frozenset()
    prefix: str = ""


def folders(networks: Networks) -> tuple[Folder, ...]:
    """Return the folders that a pipeline has for ``networks``: its transformer, VAE, text encoder and, Wan's, CLIP."""
    stem = "diffusion_pytorch_model"
    transformer, vae, text = (cast(Any, module).config for module in (networks.preview, networks.codec, networks.text))
    found = (
        Folder("transformer", "preview", stem, _settings(transformer), _SPARE),
        Folder("vae", "codec", stem, _settings(vae)),
        Folder("text_encoder", "text", "model", {key: getattr(text, key) for key in _T5}),
    )
    if networks.vision is None:
        return found
    clip = cast(Any, networks.vision).config
    settings = {key: getattr(clip, key) for key in _CLIP}
    return (*found, Folder("image_encoder", "vision", "model", settings, prefix="vision_model."))


def read_base(
    base: Path, preset: Preset, networks: Networks, wanted: Mapping[str, Mapping[str, Slot]]
) -> dict[str, Files]:
    """Return the weights of the diffusers pipeline at ``base`` for the preset's preview, VAE and text encoder.

    ``networks`` and the ``wanted`` tensors of their parts are those of the whole preset. Raises `ConfigError` with all that
    is wrong with a folder's settings, then with all that is wrong with the tensors; nothing is loaded.
    """
    parts = folders(networks)
    if absent := [part.name for part in parts if not (base / part.name).is_dir()]:
        raise ConfigError("BASE_FOLDER", f"wanted a diffusers pipeline at {base}: it has no {', '.join(absent)}")
    wrong = [line for part in parts for line in _differing(base / part.name / "config.json", part.settings)]
    wrong += _scale(base / "vae" / "config.json", preset)
    wrong += _schedule(base / "scheduler" / "scheduler_config.json", preset)
    if wrong:
        raise ConfigError("BASE_SETTINGS", f"{base} is another system than {preset.name}: {listed(wrong)}")

    def read(part: Folder) -> Files:
        paths = weight_files(base / part.name, part.stem)
        return files_of(part.part, paths, wanted[part.part], part.spare, part.prefix)

    return together({part.part: partial(read, part) for part in parts})


def weight_files(folder: Path, stem: str) -> Sequence[Path]:
    """Return the safetensors files of ``folder``: one, or the shards that its index names.

    Raises `ConfigError` where there are none, or the index names other things than files beside it.
    """
    index, whole = folder / f"{stem}.safetensors{INDEX}", folder / f"{stem}.safetensors"
    if index.is_file():
        shards = read_object(index).get("weight_map")
        names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
        if odd := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
            raise ConfigError("WEIGHTS_NAME", f"{index} names {odd[0]!r}, which is no safetensors file beside it")
        if absent := [name for name in names if not (folder / name).is_file()]:
            raise ConfigError("WEIGHTS_MISSING", f"{index} names files that are not there: {listed(absent)}")
        if names:
            return [folder / name for name in names]
    if whole.is_file():
        return [whole]
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    pickled = [name for name in found if name.endswith(_PICKLES)]
    if pickled:
        raise ConfigError(
            "WEIGHTS_PICKLE",
            f"{folder} has {pickled[0]} and no {whole.name}: a pickle runs code when it is read, so it is not; "
            "save the model with safe_serialization=True",
        )
    raise ConfigError("WEIGHTS_MISSING", f"wanted {whole.name} in {folder}, found {', '.join(found) or 'nothing'}")


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in _NO_MATTER and not key.startswith("_")}
    return dict(json.loads(json.dumps(kept)))


def _differing(path: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what ``path`` says otherwise; what it leaves out is the library's default."""
    said = read_object(path)
    for key, value in settings.items():
        if key in said and said[key] != value:
            yield f"{path.parent.name}: {key} is {_short(said[key])} and not {_short(value)}"


def _scale(path: Path, preset: Preset) -> Iterator[str]:
    said, scaling = read_object(path).get("scaling_factor"), preset.preview_scaling
    if len(scaling.std) == 1 and said is not None and not (_number(said) and abs(said * scaling.std[0] - 1.0) < 1e-6):
        yield f"vae: scaling_factor is {_short(said)} and not {1 / scaling.std[0]:g}"


def _schedule(path: Path, preset: Preset) -> Iterator[str]:
    """Yield how a scheduler differs from the one that the preview's sampler is (`schedule.cogvideox_signal`)."""
    if not path.is_file():
        return
    wanted: dict[str, Any] = {
        "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
        "snr_shift_scale": preset.sampling.preview_snr_shift,
    }  # fmt: skip
    if preset.sampling.preview == "euler_flow":
        wanted = {"num_train_timesteps": 1000, "prediction_type": "flow_prediction", "use_flow_sigmas": True}
    yield from _differing(path, wanted)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: object) -> str:
    told = json.dumps(value)
    return told if len(told) <= 60 else f"{told[:57]}..."
