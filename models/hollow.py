"""Networks of names, shapes and dtypes without numbers: graphs are exported from them where memory does not hold the weights.

Their parameters are torch's fake tensors, all of one mode, which computes shapes and mixes with real tensors.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import PreTrainedModel

from .codec import LinearCodec
from .networks import Networks, build
from .precision import ALWAYS_FLOAT32
from .sizes import Preset


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of a module's state: its ``names`` (several where it is tied, the first is written), shape and dtype."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return torch.Size(self.shape).numel()


def slots(module: nn.Module) -> dict[str, Slot]:
    """Return every tensor of the module's state once, under its first name, in the order of the state."""
    tied: dict[int, list[str]] = {}
    state = module.state_dict(keep_vars=True)
    for name, tensor in state.items():
        tied.setdefault(id(tensor), []).append(name)
    groups = ((sorted(names), state[names[0]]) for names in tied.values())
    return {names[0]: Slot(tuple(names), tuple(tensor.shape), tensor.dtype) for names, tensor in groups}


def hollow(preset: Preset, dtype: torch.dtype = torch.float32) -> Networks:
    """Return the preset's networks without numbers, in ``dtype`` but for those that no precision lowers.

    Nor does it where a network says so itself (diffusers' ``_keep_in_fp32_modules``).
    """
    networks, mode = build(preset, device="meta"), FakeTensorMode(allow_non_fake_inputs=True)
    for part, module in networks.parts().items():
        kept = _kept(part, module, dtype)

        def fake(name: str, tensor: Tensor, kept: tuple[str, ...] = kept) -> Tensor:
            with mode:
                return torch.empty(tensor.shape, dtype=_lowest(name, tensor, kept, dtype))

        _replace(module, fake)
    return networks


def lowered(networks: Networks, dtype: torch.dtype) -> Networks:
    """Return a copy of ``networks`` in ``dtype``, but for what stays in float32 (`hollow`)."""
    copy = deepcopy(networks)
    for part, module in copy.parts().items():
        kept = _kept(part, module, dtype)
        _replace(module, lambda name, tensor, kept=kept: tensor.to(_lowest(name, tensor, kept, dtype)))
    return copy


def _lowest(name: str, tensor: Tensor, kept: tuple[str, ...], dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() and not any(part in name for part in kept) else tensor.dtype


def _kept(part: str, module: nn.Module, dtype: torch.dtype) -> tuple[str, ...]:
    """Return which of a network's tensors stay in float32, by parts of their names; transformers' own for float16 alone."""
    if part in ALWAYS_FLOAT32 or isinstance(
        module, LinearCodec
    ):  # an exact change of basis, and no larger than a picture
        return ("",)
    says = isinstance(module, ModelMixin) or (isinstance(module, PreTrainedModel) and dtype == torch.float16)
    return tuple(getattr(module, "_keep_in_fp32_modules", None) or ()) if says else ()


def fill(networks: Networks, read: Callable[[str, str], Tensor]) -> None:
    """Give hollow ``networks`` their numbers, in place: ``read`` returns those of a part's tensor, in any floating dtype."""
    for part, module in networks.parts().items():
        _replace(module, lambda name, tensor, part=part: read(part, name).to(tensor.dtype))


def beside(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` as the module can compute with them: fake where it is hollow, else on its device."""
    first = next(iter(module.state_dict(keep_vars=True).values()), None)
    if isinstance(first, FakeTensor):
        mode = first.fake_mode
        return {
            name: tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor)
            for name, tensor in tensors.items()
        }
    return dict(tensors) if first is None else {name: tensor.to(first.device) for name, tensor in tensors.items()}


def _replace(module: nn.Module, new: Callable[..., Tensor]) -> None:
    """Put another tensor in the place of each of the module's state, once for all names of a tied one."""
    made: dict[int, Any] = {}
    first = {name: slot.names[0] for slot in slots(module).values() for name in slot.names}
    for name, owner, store, key in _places(module):
        if name in first:
            old = store[key]
            if id(old) not in made:
                tensor = new(first[name], old)
                made[id(old)] = old, nn.Parameter(tensor, requires_grad=False) if store is owner._parameters else tensor
            store[key] = made[id(old)][1]


def _places(module: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, Any], str]]:
    for prefix, owner in module.named_modules():
        for store in (owner._parameters, owner._buffers):
            for key in [key for key, tensor in store.items() if tensor is not None]:
                yield f"{prefix}.{key}" if prefix else key, owner, store, key
