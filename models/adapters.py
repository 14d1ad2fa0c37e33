"""LoRA adapters, in the forms of `adapter_forms`, and a checkpoint with one merged into it: W + scale B A."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dvgwm.runtime.errors import ConfigError

from .adapter_forms import flattened, half_of, kind_of
from .checkpoints import Checkpoint, listed, read_object
from .hollow import Slot
from .tensors import DTYPES, TensorHeader, finite, header

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
_PLAIN = {"use_dora": False, "fan_in_fan_out": False, "lora_bias": False, "bias": "none", "use_qalora": False}
"""What peft's settings have to be for an update to be scale B A and no more."""
_EMPTY = ("modules_to_save", "layer_replication", "megatron_config", "target_parameters", "trainable_token_indices")
_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin an adapter that leave the base as it is."""


@dataclass(frozen=True)
class Update:
    """One weight's update: ``up`` (outputs x rank) times ``down`` (rank x inputs) times ``scale``."""

    file: Path
    down: str
    up: str
    scale: float

    def spoilt(self) -> list[str]:
        """Return the halves with a number that is not finite, in words."""
        with safe_open(self.file, "pt") as file:
            return [f"{name} is not finite" for name in (self.down, self.up) if not _is_finite(file.get_tensor(name))]

    def delta(self) -> Tensor:
        """Return the update, float32."""
        with safe_open(self.file, "pt") as file:
            return (file.get_tensor(self.up).float() @ file.get_tensor(self.down).float()) * self.scale


@dataclass(frozen=True)
class Merged:
    """The weights of ``base`` with ``updates`` added in float32, rounded once, as they are written."""

    base: Checkpoint
    updates: Mapping[str, Update]

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        return {**self.base.dtypes, **dict.fromkeys(self.updates, torch.float32)}

    @property
    def identity(self) -> object:
        files = sorted({update.file for update in self.updates.values()})
        facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return [self.base.identity, facts, {name: update.scale for name, update in self.updates.items()}]

    def read(self, name: str) -> Tensor:
        weight = self.base.read(name)
        if name not in self.updates:
            return weight
        return finite(weight.float() + self.updates[name].delta(), name, self.updates[name].file)


@dataclass(frozen=True)
class Scales:
    """An adapter's alphas and ranks: of all modules, and of single ones by the end of their name."""

    alpha: float | None
    rank: int | None
    alphas: Mapping[str, float]
    ranks: Mapping[str, int]
    rooted: bool = False

    def of(self, module: str, rank: int, wrong: list[str]) -> float:
        """Return a module's scale; a disagreement with its ``rank`` is added to ``wrong``."""
        said = _of(self.ranks, module, self.rank)
        if said is not None and said != rank:
            wrong.append(f"{module} has rank {rank}, its settings say {said}")
        alpha = _of(self.alphas, module, self.alpha)
        return (rank if alpha is None else alpha) / (rank**0.5 if self.rooted else rank)


def updates_of(path: Path, wanted: Mapping[str, Slot], alpha: float | None = None) -> dict[str, Update]:
    """Return the updates of the adapter at ``path``, a folder or a file, for a network with the state ``wanted``.

    ``alpha`` takes the place of the adapter's own, or of its rank if it states none. Raises `ConfigError` with all that is
    wrong: another base, ranks of two sizes, keys without a weight, more than a plain LoRA.
    """
    file, scales = _scales(path)
    if alpha is not None:
        scales = Scales(alpha, scales.rank, {}, scales.ranks, scales.rooted)
    tensors = {each.name: each for each in header(file)}
    flat, wrong = flattened(wanted), list[str]()
    pairs, left = _pairs(tensors, flat, wrong)
    found: dict[str, Update] = {}
    for module, pair in pairs.items():
        if len(pair) < 2:
            (one,) = pair.values()
            wrong.append(f"{one}{kind_of(one)} has no {_partner(one)}: alone it belongs to no weight")
            continue
        down, up = pair[True], pair[False]
        if _fits(f"{module}.weight", tensors[down], tensors[up], wanted, wrong):
            own, rank = _number(file, _alpha(down, flat), tensors, wrong), tensors[down].shape[0]
            scale = scales.of(module, rank, wrong) if own is None or alpha is not None else own / rank
            found[f"{module}.weight"] = Update(file, down, up, scale)
    wrong += [f"{name} belongs to no weight{kind_of(name)}" for name in left]
    if not wrong and not found:
        wrong.append("it has no update of any weight")
    if not wrong:
        wrong += [text for update in found.values() for text in update.spoilt()]
    if wrong:
        raise ConfigError("LORA_BASE", f"{file} is no LoRA for this network: {listed(wrong)}")
    return found


def _pairs(
    tensors: Iterable[str], flat: Mapping[str, str], wrong: list[str]
) -> tuple[dict[str, dict[bool, str]], list[str]]:
    """Return the two halves of every module's update, the lower one under True, and all other tensors.

    A half given twice is added to ``wrong``.
    """
    pairs: dict[str, dict[bool, str]] = {}
    used: set[str] = set()
    adapters: set[str] = set()
    for name in tensors:
        if (half := half_of(name, flat)) is None:
            continue
        used |= {name, half.alpha}
        adapters.add(half.adapter)
        pair = pairs.setdefault(half.module, {})
        if half.is_down in pair:
            wrong.append(f"{pair[half.is_down]} and {name} are both for {half.module}.weight")
        pair[half.is_down] = name
    if len(adapters) > 1:
        wrong.append(f"it holds {len(adapters)} adapters, {', '.join(sorted(adapters))}; save one alone")
    return pairs, sorted(set(tensors) - used)


def _alpha(down: str, flat: Mapping[str, str]) -> str:
    half = half_of(down, flat)
    assert half is not None
    return half.alpha


def _partner(name: str) -> str:
    """Return the name of an update's other half."""
    for ours, other in ((".lora_A.", ".lora_B."), ("lora.down.", "lora.up."), ("lora_down.", "lora_up.")):
        for one, two in ((ours, other), (other, ours)):
            if one in name:
                return name.replace(one, two)
    return name


def _fits(name: str, down: TensorHeader, up: TensorHeader, wanted: Mapping[str, Slot], wrong: list[str]) -> bool:
    """Return whether two halves update the weight ``name``; the reason why not is added to ``wrong``."""
    before = len(wrong)
    slot = wanted.get(name)
    for half in (down, up):
        if half.dtype not in DTYPES:
            wrong.append(f"{half.name} is {half.dtype} and not of {', '.join(DTYPES)}")
        if len(half.shape) != 2:
            wrong.append(f"{half.name} has {len(half.shape)} dimensions and not 2")
    if slot is None:
        wrong.append(f"{down.name}{kind_of(down.name)}: the network has no {name}")
    elif len(wrong) == before and (up.shape[0], down.shape[1]) != slot.shape:
        wrong.append(
            f"{down.name}: it is for {up.shape[0]}x{down.shape[1]}, {name} is {'x'.join(map(str, slot.shape))}"
        )
    if len(wrong) == before and (down.shape[0] != up.shape[1] or not down.shape[0]):
        wrong.append(f"{down.name}: rank {down.shape[0]}, but {up.shape[1]} in {up.name}")
    return len(wrong) == before


def _scales(path: Path) -> tuple[Path, Scales]:
    """Return an adapter's file and its settings of the scale."""
    if path.is_dir() and (path / PEFT_CONFIG).is_file():
        return path / PEFT_WEIGHTS, _peft(path / PEFT_CONFIG)
    file = path / DIFFUSERS_WEIGHTS if path.is_dir() else path
    if not file.is_file():
        wanted = f"{PEFT_CONFIG} beside {PEFT_WEIGHTS}, or {DIFFUSERS_WEIGHTS}"
        raise ConfigError("LORA_FILE", f"wanted a LoRA at {path}: {wanted}; found neither")
    if file.name == PEFT_WEIGHTS and file.with_name(PEFT_CONFIG).is_file():
        return file, _peft(file.with_name(PEFT_CONFIG))
    header(file)
    with safe_open(file, "pt") as opened:
        said = (opened.metadata() or {}).get("lora_adapter_metadata")
    if said is None:
        return file, Scales(None, None, {}, {})
    try:
        settings = json.loads(said)
        ours = {key.removeprefix("transformer."): value for key, value in settings.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError("LORA_SETTINGS", f"{file}: its lora_adapter_metadata is no JSON object: {error}") from None
    return file, _checked(file, ours)


def _peft(path: Path) -> Scales:
    settings = read_object(path)
    if settings.get("peft_type") != "LORA":
        raise ConfigError("LORA_SETTINGS", f"{path}: wanted peft_type LORA, got {settings.get('peft_type')!r}")
    return _checked(path, settings)


def _checked(path: Path, settings: Mapping[str, Any]) -> Scales:
    """Return the scales in ``settings``; raises `ConfigError` if they are not a plain LoRA's."""
    wrong = [
        f"{key} is {settings[key]!r}" for key, plain in _PLAIN.items() if settings.get(key, plain) not in (plain, None)
    ]
    wrong += [f"{key} is not empty" for key in _EMPTY if settings.get(key)]
    if (start := settings.get("init_lora_weights", True)) not in _STARTS:
        wrong.append(f"init_lora_weights is {start!r}")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    ranks, alphas = settings.get("rank_pattern") or {}, settings.get("alpha_pattern") or {}
    if not _is_number(rank, whole=True):
        wrong.append(f"r is {rank!r}")
    if not _is_number(alpha):
        wrong.append(f"lora_alpha is {alpha!r}")
    for name, pattern, whole in (("rank_pattern", ranks, True), ("alpha_pattern", alphas, False)):
        if not isinstance(pattern, dict) or not all(_is_number(value, whole) for value in pattern.values()):
            wrong.append(f"{name} is no object of numbers")
        elif odd := [key for key in pattern if not re.fullmatch(r"\^?[\w.]+\$?", key)]:
            wrong.append(f"{name} has {odd[0]!r}, which is no module's name")
    if wrong:
        raise ConfigError(
            "LORA_SETTINGS", f"{path}: wanted a plain LoRA, but {listed(wrong)}; merge it and give the result"
        )
    assert isinstance(rank, int)
    assert isinstance(alpha, int | float)
    return Scales(alpha, rank, alphas, ranks, bool(settings.get("use_rslora")))


def _is_number(value: object, whole: bool = False) -> bool:
    kinds = (int,) if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < 2**31


def _of(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the entry of ``pattern`` for a module: the first one whose key ends the module's name."""
    for key, value in pattern.items():
        name = key.removesuffix("$")
        whole = name.startswith("^")
        if module == name.removeprefix("^") or (not whole and module.endswith(f".{name}")):
            return value
    return default


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _number(file: Path, name: str, tensors: Mapping[str, TensorHeader], wrong: list[str]) -> float | None:
    """Return a tensor of one number, or None."""
    if name not in tensors:
        return None
    if torch.Size(tensors[name].shape).numel() != 1 or tensors[name].dtype not in DTYPES:
        wrong.append(f"{name} is no number")
        return None
    with safe_open(file, "pt") as opened:
        value = float(opened.get_tensor(name).reshape(()))
    if not 0 < value < 2**31:
        wrong.append(f"{name} is {value:g}")
    return value
