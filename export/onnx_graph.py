"""Writes a torch module as one ONNX file, and checks the file."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from dvgwm.models.graph import PLAIN_OPSET
from dvgwm.runtime.errors import BundleCorruptError

from .shared_weights import Place, referred
from .tracing import dynamic_shapes, quiet
from .translations import TRANSLATIONS


def export_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    dynamic: Mapping[str, str],
    path: Path,
    opset: int = PLAIN_OPSET,
    weights: Mapping[str, Place] | None = None,
) -> None:
    """Write ``module`` to ``path`` as ONNX; ``inputs`` are example tensors in the order of forward's parameters.

    ``dynamic`` maps inputs with a first size chosen at run time to the size's name. ``weights``, by their names in
    ``module``, are read from their place beside ``path``: their numbers are not looked at, so the module may be hollow.
    """
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic_shapes(inputs, dynamic),
            verbose=False,
            optimize=False,
            custom_translation_table=dict(TRANSLATIONS),
        )
        assert program is not None
        with referred(program.model, weights or {}):
            program.optimize()
    model = program.model_proto
    # Which lines of code, on which machine, every node comes from is four fifths of a small graph.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    path.write_bytes(model.SerializeToString())


def check_graph(path: Path) -> None:
    """Return if the file at ``path`` is a valid ONNX graph; raises `BundleCorruptError` if not."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # onnx's errors have no common base
        raise BundleCorruptError("GRAPH_INVALID", f"{path.name} is no valid ONNX graph: {error}") from error
