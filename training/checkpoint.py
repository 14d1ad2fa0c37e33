"""What a loop leaves on disk: checkpoints that are whole or not there, and weights."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dvgwm.models.weights import once, save_tensors

KEPT = 2
"""Checkpoints kept: the last, and the one before it in case the last is on a disk that filled up."""

FACTS = "facts.json"


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a loop is: steps done, and the seconds that they took in all."""

    step: int = 0
    elapsed_s: float = 0.0


def save(accelerator: Accelerator, out: Path, average: Sequence[Tensor], reached: Reached) -> None:
    """Write a checkpoint beside the others; it has its name only when all of it is there."""
    folder, partial = out / "checkpoints" / f"{reached.step:07d}", out / "checkpoints" / "partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    local = {f"{n}": _local(tensor).contiguous() for n, tensor in enumerate(average)}
    save_file(local, partial / f"average_{accelerator.process_index}.safetensors")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (partial / FACTS).write_text(json.dumps(asdict(reached)), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        for old in _checkpoints(out)[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


@torch.no_grad()
def resume(accelerator: Accelerator, out: Path, average: Sequence[Tensor]) -> Reached:
    """Take up the last checkpoint under ``out``, weights, optimisers and ``average``; say where it was."""
    found = _checkpoints(out)
    if not found:
        return Reached()
    accelerator.load_state(str(found[-1]))
    for name, tensor in load_file(found[-1] / f"average_{accelerator.process_index}.safetensors").items():
        _local(average[int(name)]).copy_(tensor)
    return Reached(**json.loads((found[-1] / FACTS).read_text("utf-8")))


def save_weights(accelerator: Accelerator, model: nn.Module, path: Path, borrowed: tuple[str, ...] = ()) -> Path:
    """Write the weights of ``model``, gathered from all processes, to ``path``: tied ones once, ``borrowed`` ones never."""
    state = {
        name: tensor for name, tensor in accelerator.get_state_dict(model).items() if not name.startswith(borrowed)
    }
    if accelerator.is_main_process:
        save_tensors(once(state), path)
    accelerator.wait_for_everyone()
    return path


def _checkpoints(out: Path) -> list[Path]:
    return sorted(path for path in (out / "checkpoints").glob("[0-9]*") if (path / FACTS).is_file())


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
