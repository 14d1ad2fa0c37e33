"""A torch module to one ONNX file."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from dvgwm.runtime.errors import BundleCorruptError

from .shared_weights import Place, refer

ATTENTION_OPSET = 23
"""The first opset with one `Attention` operator, which ONNX Runtime runs faster than the decomposed form."""
PLAIN_OPSET = 20
"""Before `GroupNormalization`, which ONNX Runtime expands less exactly: decode error 1.3e-5 against 8e-6."""


def export_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    dynamic: Mapping[str, str],
    path: Path,
    opset: int = PLAIN_OPSET,
    stored: Mapping[bytes, Place] | None = None,
) -> None:
    """Write ``module`` to ``path`` as ONNX.

    ``inputs`` are example tensors in the order of forward's parameters; ``dynamic`` maps those whose first size is
    chosen at run time to that size's name. Weights that are ``stored`` beside ``path`` are read from there.
    """
    sizes = {name: torch.export.Dim(name, min=1, max=64) for name in set(dynamic.values())}
    shapes = tuple({0: sizes[dynamic[name]]} if name in dynamic else None for name in inputs)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_loggers():
        warnings.simplefilter("ignore")  # torch warns about its own internals
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes if dynamic else None,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _forget_source(model.graph)
    refer(model, stored or {})
    path.write_bytes(model.SerializeToString())


def _forget_source(graph: onnx.GraphProto) -> None:
    """Drop which lines of code, on which machine, every node comes from: four fifths of a small graph."""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.value_info[:]


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_graph(path: Path) -> None:
    """Return if the file at ``path`` is a valid ONNX graph; raises `BundleCorruptError` if not."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # onnx's errors have no common base
        raise BundleCorruptError("GRAPH_INVALID", f"{path.name} is no valid ONNX graph: {error}") from error
