"""The setting to use on a card: the fastest of ours among the rows, and the seconds of a plan in each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .rows import Row, read

OURS = ("bfloat16", "bfloat16_kernel", "fp8", "fp8_kernel", "fp8_8bit", "fp8_fp8")
THEIRS = ("diffusers eager", "diffusers compile", "diffusers compile, cuDNN attention")
AS_FAST = 1.02
"""Settings within this of the fastest count as it: of those the most exact one is used."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A plan's seconds in one setting, stage by stage, and its floor; None if not measured.

    ``error`` is the relative L2 of velocities against float32's, the larger of preview and refiner; ``gb`` is the memory of
    weights and of the hungriest stage.
    """

    name: str
    preview_s: float | None
    refine_s: float | None
    decode_s: float | None
    floor_s: float | None
    error: float | None
    gb: float | None

    @property
    def plan_s(self) -> float | None:
        """The sum of the stages."""
        return _sum(self.preview_s, self.refine_s, self.decode_s)


def settings(file: Path, gpu: object, preset: str | None) -> tuple[Setting, ...]:
    """Return this card's settings, diffusers' first, from the newest rows of each.

    Without a ``preset`` they are of rows without one: the first form of this benchmark measured `dvgwm_5b` alone.
    """
    newest: dict[tuple[str, str], Row] = {}
    for row in read(file):
        if row.get("gpu") == gpu and row.get("preset") == preset and row.get("variant"):
            newest[row["name"], row["variant"]] = row
    made = (_setting(name, newest) for name in (*THEIRS, *OURS))
    return tuple(setting for setting in made if setting.preview_s is not None)


def _setting(name: str, rows: Mapping[tuple[str, str], Row]) -> Setting:
    preview, refine = (rows.get((f"{stage} forward", name), {}) for stage in ("preview", "refine"))
    decoder = "bfloat16" if name in OURS else "diffusers eager" if name == THEIRS[0] else "diffusers compile"
    decode = rows.get(("decode", decoder)) or {}
    if name in THEIRS[1:]:  # with the search if that is faster, and eagerly if it could not be compiled
        known = (decode, rows.get(("decode", f"{decoder}, cuDNN's search"), {}))
        decode = min((row for row in known if "median_s" in row), key=lambda row: row["median_s"], default={})
        decode = decode or rows.get(("decode", THEIRS[0]), {})
    errors = [row["relative_l2"] for row in (preview, refine) if row.get("relative_l2") is not None]
    held = _sum(preview.get("weight_bytes"), refine.get("weight_bytes"))
    works = [row["working_bytes"] for row in (preview, refine, decode) if row.get("working_bytes") is not None]
    floors = [row["calls"] * row["floor_s"] for row in (preview, refine) if row.get("floor_s") is not None]
    return Setting(
        name,
        preview.get("stage_s"),
        refine.get("stage_s"),
        decode.get("median_s"),
        sum(floors) if len(floors) == 2 else None,
        max(errors, default=None),
        None if held is None or not works else (held + max(works)) / 1e9,
    )


def best(found: tuple[Setting, ...]) -> Setting | None:
    """Return the setting of ours to use: the most exact of the fastest."""
    ours = [(setting.plan_s, setting) for setting in found if setting.name in OURS and setting.plan_s is not None]
    if not ours:
        return None
    limit = AS_FAST * min(taken for taken, _ in ours)
    return min((s for taken, s in ours if taken <= limit), key=lambda setting: (setting.error or 0.0, setting.plan_s))


def fastest(file: Path, gpu: object, preset: str, has_fp8: bool) -> str:
    """Return the precision to build in: the rows' best, or without rows the best on an H200."""
    chosen = best(settings(file, gpu, preset))
    return chosen.name if chosen else "fp8_kernel" if has_fp8 else "bfloat16_kernel"


def _sum(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
