"""Weights of a preset's networks on disk: a folder with one safetensors file per network, in half precision or not."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dvgwm.runtime.errors import ConfigError

from .networks import Networks
from .tensors import DTYPES, finite, header


def save_parts(networks: Networks, names: tuple[str, ...], folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the networks called ``names`` into ``folder``, as ``dtype``."""
    parts = networks.parts()
    for name in names:
        state = {key: tensor.to(dtype) for key, tensor in once(parts[name].state_dict()).items()}
        save_tensors(state, folder / f"{name}.safetensors")


def save_exactly(module: nn.Module, path: Path) -> None:
    """Write the weights of ``module`` to ``path``: in half precision if a tensor loses nothing by it, else as it is."""
    save_tensors({key: _halved(tensor) for key, tensor in once(module.state_dict()).items()}, path)


def _halved(tensor: Tensor) -> Tensor:
    half = tensor.half()
    return half if tensor.dtype == torch.float32 and torch.equal(half.float(), tensor) else tensor


def load_parts(networks: Networks, folder: Path) -> tuple[str, ...]:
    """Load every network in ``folder``, and return their names.

    Raises `ConfigError` if it has none, or weights of another size.
    """
    parts = networks.parts()
    found = {name: paths for name in parts if (paths := part_files(folder, name))}
    if not found:
        raise ConfigError("WEIGHTS_MISSING", f"wanted {', '.join(parts)}.safetensors in {folder}, found none of them")
    for name, paths in found.items():
        load_weights(parts[name], *paths)
    return tuple(found)


def part_files(folder: Path, part: str) -> list[Path]:
    """Return the safetensors files of a part in ``folder``, one or several shards; empty if it has none.

    Raises `ConfigError` if it has both, or shards of two totals: they are two checkpoints.
    """
    whole = folder / f"{part}.safetensors"
    shards = sorted(folder.glob(f"{part}-[0-9]*-of-[0-9]*.safetensors"))
    counts = sorted({shard.stem.rpartition("-of-")[2] for shard in shards})
    if shards and (whole.is_file() or len(counts) > 1):
        both = [*([whole.name] if whole.is_file() else []), *(f"shards of {count}" for count in counts)]
        raise ConfigError("WEIGHTS_TWICE", f"{folder} has {part} more than once: {', '.join(both)}; keep one of them")
    return [whole] if whole.is_file() else shards


def load_weights(module: nn.Module, path: Path, *shards: Path, borrowed: tuple[str, ...] = ()) -> None:
    """Load the weights of ``module`` from ``path`` and its other ``shards``, except names that begin with ``borrowed``.

    Raises `ConfigError` if they are another network's, of no floating dtype, not finite, or there twice.
    """
    wanted = module.state_dict()
    state: dict[str, Tensor] = {}
    for file in (path, *shards):
        for each in header(file):
            is_float = each.name not in wanted or wanted[each.name].is_floating_point()
            if is_float and each.dtype not in DTYPES:
                raise ConfigError("WEIGHTS_SIZE", f"{file}: {each.name} is {each.dtype} and not of {', '.join(DTYPES)}")
        tensors = load_file(file)
        if twice := sorted(tensors.keys() & state.keys()):
            raise ConfigError("WEIGHTS_SIZE", f"{file}: {twice[0]} is there twice, also in another shard")
        state |= {name: finite(tensor, name, file) for name, tensor in tensors.items()}
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ConfigError(
            "WEIGHTS_SIZE", f"{path} fits another network: {str(error).splitlines()[-1].strip()}"
        ) from None
    # Tied weights are written under one of their names only.
    expected = once(module.state_dict())
    lost = [name for name in missing if name in expected and not name.startswith(borrowed)]
    if lost or unexpected:
        raise ConfigError(
            "WEIGHTS_SIZE", f"{path} fits another network: missing {lost[:3]}, unexpected {unexpected[:3]}"
        )


def save_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors to ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, partial)
    partial.rename(path)


def once(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor under its first name: tied weights are one tensor with two."""
    first = {(tensor.data_ptr(), tensor.shape): name for name, tensor in sorted(state.items(), reverse=True)}
    return {name: state[name] for name in sorted(first.values())}
