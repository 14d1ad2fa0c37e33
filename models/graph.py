"""One engine's graph before it is exported: a module, example inputs, and the interface that the runtime sees."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

PLAIN_OPSET = 20
"""Before `GroupNormalization`, which ONNX Runtime expands less exactly: decode error 1.3e-5 against 8e-6."""
HALF_OPSET = 22
"""The first with convolutions in bfloat16; after it T5's norms are fused into `RMSNormalization` of types that disagree."""
ATTENTION_OPSET = 23
"""The first opset with one `Attention` operator, which ONNX Runtime runs faster than the decomposed form."""
BRANCHES, FRAMES, CHUNKS_DRAWN = "branches", "frames", "chunks"
"""Sizes chosen at run time: guidance branches, frames encoded in one batch, and samples of all action chunks in one."""


@dataclass(frozen=True)
class Graph:
    """A module that takes ``inputs`` by position and gives ``outputs`` in order.

    ``dynamic`` names the inputs whose first size is chosen at run time; their outputs follow it. Where it is fixed a run
    does the work of so many ``units``.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, str] = field(default_factory=dict)
    carry: Mapping[str, str] = field(default_factory=dict)
    opset: int = PLAIN_OPSET
    suffix: str = "onnx"
    units: int = 1

    @property
    def file(self) -> str:
        """The engine's file name in the bundle."""
        return f"{self.name}.{self.suffix}"

    @property
    def weights(self) -> str:
        """The file of its weights, empty where the engine's own holds them."""
        return "" if self.suffix == "onnx" else f"{self.name}.safetensors"
