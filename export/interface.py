"""States what the manifest says of a graph: names, shapes and dtypes of its tensors, and the work of one run."""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dvgwm.models.graph import Graph
from dvgwm.models.hollow import beside
from dvgwm.runtime.backends.backend import EngineSpec
from dvgwm.runtime.types import TensorSpec


def engine_spec(graph: Graph) -> EngineSpec:
    """Return names, shapes, dtypes, carried tensors and FLOP (per unit of the dynamic size) of ``graph``."""
    # A module that was compiled for a GPU is there by now; a hollow one computes shapes only.
    inputs = beside(graph.module, graph.inputs).values()
    # The plain form of attention is counted operator by operator; fused ones are unknown to the counter on a CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = run_module(graph.module, inputs)
    batch = next((graph.inputs[name].shape[0] for name in graph.dynamic), graph.units)
    sizes = set(graph.dynamic.values())
    dynamic_outputs = dict.fromkeys(graph.outputs, sizes.pop()) if sizes else {}
    return EngineSpec(
        graph.file,
        tuple(_spec(name, tensor, graph.dynamic.get(name)) for name, tensor in graph.inputs.items()),
        tuple(
            _spec(name, tensor, dynamic_outputs.get(name)) for name, tensor in zip(graph.outputs, outputs, strict=True)
        ),
        dict(graph.carry),
        counter.get_total_flops() / batch,
        graph.weights,
    )


def run_module(module: nn.Module, inputs: object) -> tuple[Tensor, ...]:
    """Return the module's outputs as a tuple."""
    outputs = module(*inputs)  # type: ignore[misc]
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _spec(name: str, tensor: Tensor, dynamic: str | None) -> TensorSpec:
    shape: tuple[int | str, ...] = tuple(tensor.shape)
    return TensorSpec(name, (dynamic, *shape[1:]) if dynamic else shape, str(tensor.dtype).removeprefix("torch."))
