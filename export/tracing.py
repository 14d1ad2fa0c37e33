"""What every export shares: sizes left open in a graph, and torch's words about its own internals kept to itself."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

LOGGERS = ("torch.export", "torch.onnx", "torch._inductor", "torch._dynamo", "onnxscript", "onnx_ir")


def dynamic_shapes(inputs: Mapping[str, Any], dynamic: Mapping[str, str]) -> tuple[Any, ...] | None:
    """Return what `torch.export` is told of sizes: ``dynamic`` maps inputs whose first size is open to that size's name."""
    sizes = {name: torch.export.Dim(name, min=1, max=64) for name in set(dynamic.values())}
    return tuple({0: sizes[dynamic[name]]} if name in dynamic else None for name in inputs) if dynamic else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let torch trace and compile without gradients, warnings, logs or prints."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
