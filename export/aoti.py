"""Compiles a torch module to an AOTInductor package; its weights lie beside it, so that engines can share them."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import ExportedProgram

from .tracing import dynamic_shapes, quiet


def traced(
    module: nn.Module, inputs: Mapping[str, Tensor], dynamic: Mapping[str, str], device: torch.device
) -> ExportedProgram:
    """Return ``module`` as a graph on ``device``; ``inputs`` are example tensors in the order of forward's parameters."""
    examples = tuple(tensor.to(device) for tensor in inputs.values())
    shapes = dynamic_shapes(inputs, dynamic)
    with quiet():
        return torch.export.export(module.eval().to(device), examples, dynamic_shapes=shapes, strict=False)


def export_package(program: ExportedProgram, path: Path) -> None:
    """Compile ``program`` for the device it was traced on and write it to ``path``, without its weights."""
    package = path.with_name(f"{path.stem}.aoti.pt2")  # a package wants to be written under its own suffix
    with quiet():
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(package), inductor_configs={"aot_inductor.package_constants_in_so": False}
        )
    package.replace(path)


def write_weights(program: ExportedProgram, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Write every tensor that the package of ``program`` wants, under the name it wants it by.

    The package reads them, and its ``inputs``, with the strides that it was compiled for, unchecked; the file format has
    none, so they go beside them: those of tensors that are not contiguous. Types and sizes of inputs and outputs do too, which
    a package neither tells nor checks: what is open is null.
    """
    constants = {name: value for name, value in program.constants.items() if isinstance(value, Tensor)}
    tensors = {name: tensor.detach() for name, tensor in (program.state_dict | constants).items()}
    strides, layouts = (
        {name: tensor.stride() for name, tensor in named.items() if not tensor.is_contiguous()}
        for named in (tensors, inputs)
    )
    # Nor has it aliases: tied tensors and views get memory of their own.
    dense = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    facts = {"strides": strides, "inputs": layouts, "interface": _interface(program)}
    save_file(dense, path, {name: json.dumps(fact) for name, fact in facts.items()})


def _interface(program: ExportedProgram) -> list[list[tuple[str, list[int | None]]]]:
    """Return type and sizes of every input, and of every output, in their order."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}

    def told(name: object) -> tuple[str, list[int | None]]:
        tensor = values[str(name)]
        sizes = [size if isinstance(size, int) else None for size in tensor.shape]
        return str(tensor.dtype).removeprefix("torch."), sizes

    signature = program.graph_signature
    return [[told(name) for name in side] for side in (signature.user_inputs, signature.user_outputs)]
