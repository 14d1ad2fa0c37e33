"""The actions of a plan without an arm: as a table, as JSON and as a drawing, with the joints of a named robot."""

from dataclasses import dataclass
from typing import Any

from ..bundle.manifest import ActionContract
from ..types import ActionChunk, PlannedJoints
from .strips import strips_drawing


@dataclass(frozen=True, slots=True)
class PlannedActions:
    """Actions with their meaning, and the joints that would follow, if a robot was named."""

    chunk: ActionChunk
    contract: ActionContract
    joints: PlannedJoints | None = None

    def csv(self) -> bytes:
        """Return an action a row, comma-separated: its time in seconds after the picture, its numbers, the joints."""
        names = [f"{name} [{unit}]" for name, unit in zip(self.contract.names, self.contract.units, strict=True)]
        rows = [[time_s, *action] for time_s, action in zip(self.chunk.times_s, self.chunk.actions, strict=True)]
        if self.joints is not None:
            names += [f"{name} [{unit}]" for name, unit in zip(self.joints.names, self.joints.units, strict=True)]
            rows = [[*row, *joints] for row, joints in zip(rows, self.joints.positions, strict=True)]
        lines = [",".join(["time_s", *names]), *(",".join(f"{number:.6g}" for number in row) for row in rows)]
        return "\n".join([*lines, ""]).encode()

    def json(self) -> dict[str, Any]:
        """Return the same as plain data."""
        facts: dict[str, Any] = {
            "space": self.chunk.space,
            "names": list(self.contract.names),
            "units": list(self.contract.units),
            "times_s": self.chunk.times_s.tolist(),
            "actions": self.chunk.actions.tolist(),
        }
        if self.joints is not None:
            facts["joints"] = {
                "robot": self.joints.robot,
                "names": list(self.joints.names),
                "units": list(self.joints.units),
                "positions": [list(row) for row in self.joints.positions],
                "out_of_reach": self.joints.out_of_reach,
            }
        return facts

    def drawing(self) -> dict[str, Any] | None:
        """Return the report's drawing: a strip for every number of an action."""
        rows = {"planned": self.chunk.actions.tolist()}
        return strips_drawing(self.contract.names, self.contract.units, self.chunk.times_s.tolist(), rows)
