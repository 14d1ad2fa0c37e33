"""What is asked of a stage's engines and constants, one question each; every answer that is wrong is a `Finding`."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import NamedTuple, TypeAlias

from ..errors import ConfigError
from ..samplers.rows import build_sampler
from ..types import TensorSpec
from .manifest import StageSpec

MOST_STEPS = 100
"""Of a sampler that a bundle states: a diffusion policy's, the longest that is published; --steps may ask for more."""
LARGEST_BYTES = 2 << 30
"""Of one tensor: three times the largest that a full-size decoder carries, in float32 (256 x 2 x 480 x 720)."""
MOST_AXES = 8
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "int32": 4, "int64": 8}
Specs: TypeAlias = list[TensorSpec] | None


class Finding(NamedTuple):
    """One thing that does not hold; with ``corrupt`` false it is sound, but not for this version."""

    log_code: str
    text: str
    corrupt: bool = True


def number_in(place: str, value: float, low: float, high: float) -> Iterator[Finding]:
    """Give a finding where ``value`` is not from ``low`` to ``high``; NaN is not."""
    if not low <= value <= high:
        yield Finding("MANIFEST_RANGE", f"wanted {place} from {low:g} to {high:g}, got {value!r}")


def agree(left: TensorSpec, right: TensorSpec) -> bool:
    """Return whether two tensors can be the same: a size chosen at run time fits any."""
    return (
        left.dtype == right.dtype
        and len(left.shape) == len(right.shape)
        and all(
            a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(left.shape, right.shape, strict=True)
        )
    )


def impossible(spec: TensorSpec) -> bool:
    """Return whether a size is none, or the tensor has more axes or is larger than any (its open sizes taken as one)."""
    sizes = [size for size in spec.shape if isinstance(size, int)]
    if len(spec.shape) > MOST_AXES or any(size < 1 for size in sizes):
        return True
    return prod(sizes) * ITEM_BYTES[spec.dtype] > LARGEST_BYTES


def inputs_are(stage: StageSpec, names: Iterable[str]) -> Iterator[Finding]:
    if sorted(stage.inputs) != sorted(names):
        yield Finding(
            "STAGE_INPUTS", f"stage {stage.name}: wanted inputs {', '.join(names)}, got {', '.join(stage.inputs)}"
        )


def interface(
    stage: StageSpec, role: str, inputs: Mapping[str, int], outputs: Mapping[str, int]
) -> Generator[Finding, None, tuple[Specs, Specs]]:
    """Return inputs and outputs of an engine in this order, None where they are others or of other numbers of axes (0: any)."""
    engine, sides = stage.engines[role], list[Specs]()
    for what, wanted, have in (("inputs", inputs, engine.inputs), ("outputs", outputs, engine.outputs)):
        by_name = {spec.name: spec for spec in have}
        good = by_name.keys() == wanted.keys() and all(
            axes in (0, len(by_name[name].shape)) for name, axes in wanted.items()
        )
        if not good:
            yield Finding(
                "ENGINE_INTERFACE",
                f"stage {stage.name}: {engine.file}: wanted {what} "
                f"{', '.join(f'{name} of {axes} axes' if axes else name for name, axes in wanted.items())}, got "
                f"{', '.join(f'{spec.name} {spec}' for spec in have) or 'none'}",
            )
        sides.append([by_name[name] for name in wanted] if good else None)
    return sides[0], sides[1]


def sampler_of(stage: StageSpec) -> Iterator[Finding]:
    assert stage.sampler is not None
    if stage.sampler.steps > MOST_STEPS:
        yield from number_in(f"stage {stage.name}: the sampler's steps", stage.sampler.steps, 1, MOST_STEPS)
        return
    try:
        build_sampler(stage.sampler)
    except ConfigError as error:
        yield Finding(error.log_code, f"stage {stage.name}: {error}")


def one(spec: TensorSpec) -> TensorSpec:
    """Return one of as many as there are first."""
    return replace(spec, shape=(1, *spec.shape[1:]))


def velocity_of(
    stage: StageSpec, state: TensorSpec, time: TensorSpec, velocity: TensorSpec, most: int
) -> Iterator[Finding]:
    if time.shape != (1,) or time.dtype != "float32":
        yield misshapen(stage, time, "float32[1]")
    rows = velocity.shape[0]  # one per guidance branch, or as many as states; ``most`` where that is not open
    if (
        "float" not in velocity.dtype
        or velocity.shape[1:] != state.shape[1:]
        or (isinstance(rows, int) and rows != most)
    ):
        yield misshapen(stage, velocity, f"as the state, {state}")


def fits(stage: StageSpec, wanted: TensorSpec, source: TensorSpec | None) -> Iterator[Finding]:
    if source is not None and not agree(wanted, source):
        yield Finding(
            "STAGE_SHAPES", f"stage {stage.name}: its {wanted.name} is {wanted}, what is made for it is {source}"
        )


def number(stage: StageSpec, name: str, low: float, high: float) -> Generator[Finding, None, float]:
    value = stage.constants.get(name)
    if not isinstance(value, int | float) or not low <= value <= high:
        yield Finding(
            "STAGE_CONSTANT",
            f"stage {stage.name}: wanted a number {name!r} from {low:g} to {high:g}, got {value!r}",
            False,
        )
        return low
    return float(value)


def whole(stage: StageSpec, name: str, low: int, high: int) -> Generator[Finding, None, int]:
    value = yield from number(stage, name, low, high)
    if value != int(value):
        yield Finding("STAGE_CONSTANT", f"stage {stage.name}: wanted a whole number {name!r}, got {value!r}", False)
    return int(value)


def vector(
    stage: StageSpec, name: str, low: float, high: float, channels: int | str | None
) -> Generator[Finding, None, tuple[float, ...]]:
    """Return the numbers ``name``, one for all or one per channel; any number of them where there are no ``channels``."""
    value = stage.constants.get(name)
    numbers = (value,) if isinstance(value, int | float) else value
    if not isinstance(numbers, tuple) or not numbers or not all(low <= number <= high for number in numbers):
        shown = f"{value!r:.60}"
        yield Finding(
            "STAGE_CONSTANT",
            f"stage {stage.name}: wanted {name!r} as numbers from {low:g} to {high:g}, got {shown}",
            False,
        )
        return (low,)
    if channels is not None and len(numbers) not in (1, channels):
        yield Finding(
            "STAGE_CONSTANT",
            f"stage {stage.name}: wanted {name!r} once or for {channels} channels, got {len(numbers)}",
            False,
        )
    return numbers


def fixed(spec: TensorSpec, after: int = 0) -> bool:
    """Return whether all sizes behind the first ``after`` are fixed, and none is nothing."""
    return all(isinstance(size, int) and size > 0 for size in spec.shape[after:])


def misshapen(stage: StageSpec, spec: TensorSpec, wanted: str) -> Finding:
    return Finding("ENGINE_SHAPE", f"stage {stage.name}: wanted {spec.name} as {wanted}; got {spec}")
