"""The spellings of a LoRA's tensors, trainer by trainer: each form's name, and the weight of each tensor."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "module.")
_FLAT_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer_")
_HALVES = (
    re.compile(
        r"(?P<module>.+)\.lora_(?P<half>[AB])(?:\.(?P<adapter>[^.]+))?\.weight"
    ),  # peft's, with an adapter's name
    re.compile(r"(?P<module>.+)\.processor\.(?P<layer>to_\w+?)_lora\.(?P<half>down|up)\.weight"),  # diffusers' first
    re.compile(r"(?P<module>.+)\.lora\.(?P<half>down|up)\.weight"),  # diffusers' second
    re.compile(r"(?P<module>.+)\.lora_(?P<half>down|up)\.weight"),  # kohya's, VideoX-Fun's, ComfyUI's
)
_MORE = {
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "oft_": "OFT",
    "boft_": "BOFT",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "LoCon",
    "lora_embedding_": "LoRA of embeddings",
    "lora_B.bias": "LoRA with biases",
    ".diff_b": "ComfyUI's differences of whole weights",
    "diff": "ComfyUI's differences of whole weights",
}
"""What in a tensor's name tells of more than a plain LoRA."""
_OTHERS = {
    "diffusion_model.": "ComfyUI's names, of the original model",
    "lora_unet_": "kohya's or VideoX-Fun's names",
    "lora_te": "kohya's names of a text encoder",
    "text_encoder": "diffusers' names of a text encoder",
    "model.diffusion_model.transformer.layers.": "SAT's names, of the original model",
}
"""What a name begins with that another model's, or another part's, does."""


@dataclass(frozen=True, slots=True)
class Half:
    """One of the two matrices of an update, with its module's name in the network and the name of its alpha's tensor."""

    module: str
    is_down: bool
    adapter: str
    alpha: str


def half_of(tensor: str, flat: Mapping[str, str]) -> Half | None:
    """Return the half of an update called ``tensor``; None if that is no LoRA's name.

    ``flat`` gives the module of a name with underscores for dots, as kohya and VideoX-Fun write them.
    """
    for form in _HALVES:
        if match := form.fullmatch(tensor):
            found = match.groupdict()
            stem = found["module"] + (f".{found['layer']}" if found.get("layer") else "")
            is_down = found["half"] in ("A", "down")
            return Half(plain(stem, flat), is_down, found.get("adapter") or "", f"{found['module']}.alpha")
    return None


def plain(module: str, flat: Mapping[str, str]) -> str:
    """Return a module's name without the trainer's prefix, its dots restored."""
    for prefix in _FLAT_PREFIXES:
        if module.startswith(prefix):
            return flat.get(module.removeprefix(prefix), module)
    for prefix in _PREFIXES:
        module = module.removeprefix(prefix)
    return module


def flattened(weights: Iterable[str]) -> dict[str, str]:
    """Return the modules of weights by name with underscores for dots; an ambiguous name is left out."""
    modules = [name.removesuffix(".weight") for name in weights]
    flat: dict[str, list[str]] = {}
    for module in modules:
        flat.setdefault(module.replace(".", "_"), []).append(module)
    return {name: found[0] for name, found in flat.items() if len(found) == 1}


def kind_of(tensor: str) -> str:
    """Return the kind of a tensor by its name, in brackets; empty for a plain LoRA of a diffusers transformer."""
    last = tensor.rpartition(".")[2]
    for part, kind in _MORE.items():
        if last == part or (part in tensor and not part.isalpha()):
            return f" ({kind})"
    return next((f" ({kind})" for start, kind in _OTHERS.items() if tensor.startswith(start)), "")
