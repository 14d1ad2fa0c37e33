"""Readiness of robot, camera, bundle and machine for each other: every mismatch at once, each with its fix."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..backends.onnx.packages import check_packages
from ..bundle.manifest import ActionContract, Manifest
from ..cameras.reader import CameraReader
from ..cameras.sight import check_sight
from ..config.plugins import load_robot, open_live
from ..config.settings import ReadinessSettings
from ..display.asking import checks_table
from ..display.inspection import left_here, realtime
from ..display.results import RUNS
from ..errors import ConfigError, DvgwmError, GateLatchError
from ..types import Check, Observation

TICKS, TICK_S, LATE_S = 50, 0.02, 0.02
FREE_BYTES = 1_000_000_000
CAMERA, SIZE_PX = "scene", (128, 192)
"""What a camera is called here, and how large its picture is made where no bundle says."""
DEVICES = ("/dev/ttyACM*", "/dev/ttyUSB*", "/dev/video*")


def examine(settings: ReadinessSettings) -> tuple[dict[str, Any], DvgwmError | None]:
    """Look at everything, print a row for each, and return the facts and the first error, None if all is fine.

    Nothing is sent to a robot. Parts not named are not looked at, and said so.
    """
    seen = Seen()
    load_robot(settings.robot)  # one that is unknown has nothing to be looked at
    with ExitStack() as opened:
        seen.look("config", lambda: [Check("config", True, settings.config)])
        seen.look("libraries", lambda: [_libraries()])
        seen.look("bundle", lambda: [_bundle(settings, seen)])
        seen.look("limits", lambda: [_limits(settings)])
        seen.look("picture", lambda: [_picture(settings, seen, opened)])
        seen.look("robot", lambda: _robot(settings, seen))
    seen.look("clock", lambda: [_clock()])
    seen.look("disk", lambda: [_disk()])
    seen.look("leftovers", lambda: [Check("leftovers", True, left_here())])
    seen.look("permissions", lambda: list(_permissions()))
    Console().print(checks_table(f"{settings.robot}{f' at {settings.arm}' if settings.arm else ''}", seen.checks))
    facts = [{"what": each.what, "fine": each.fine, "found": each.found} for each in seen.checks]
    result = {"command": "doctor", "robot": settings.robot, "fine": not seen.wrong, "checks": facts}
    return result, seen.wrong[0] if seen.wrong else None


@dataclass(slots=True)
class Seen:
    """The findings so far: checks, errors, and the facts for later checks."""

    checks: list[Check] = field(default_factory=list)
    wrong: list[DvgwmError] = field(default_factory=list)
    manifest: Manifest | None = None
    camera: CameraReader | None = None

    def look(self, what: str, check: Callable[[], Sequence[Check]]) -> None:
        """Keep the finding of ``check``; an error is one, too."""
        try:
            made = check()
        except DvgwmError as error:
            self.wrong.append(error)
            said, _, remedy = str(error).partition("; ")
            made = [Check(what, False, f"{error.log_code}: {said}", remedy)]
        else:
            self.wrong += [
                GateLatchError("ARM_UNREADY", f"{each.what}: {each.found}") for each in made if not each.fine
            ]
        self.checks += made


def check_actions(action: ActionContract, robot: str, joint_names: Sequence[str]) -> None:
    """Raise `ConfigError` if a bundle's joint actions are of other joints than the robot's, or in another order."""
    names = [name.removesuffix(".pos") for name in action.names]
    if action.space == "joint" and names != list(joint_names):
        raise ConfigError(
            "ACTION_NAMES",
            f"{robot} has the joints {', '.join(joint_names)}, the bundle's actions are of {', '.join(names)}; "
            "use a bundle that was trained for this robot",
        )


def _libraries() -> Check:
    check_packages()
    return Check("libraries", True, "none is overwritten by another")


def _bundle(settings: ReadinessSettings, seen: Seen) -> Check:
    manifest = settings.engines.find().manifest
    seen.manifest = manifest
    trained = "trained" if manifest.model.trained else "NOT trained: its actions mean nothing"
    said = f"{manifest.name} for {manifest.backend}, every file verified, {trained}"
    return Check("bundle", manifest.model.trained, said, "use a trained bundle (docs/training.md)")


def _limits(settings: ReadinessSettings) -> Check:
    load_robot(settings.robot, settings.limits)
    found = "the robot's own" if settings.limits is None else f"tightened by {settings.limits}"
    return Check("limits", True, found)


def _picture(settings: ReadinessSettings, seen: Seen, opened: ExitStack) -> Check:
    """Open the camera, and look whether it shows anything."""
    if settings.camera is None:
        return Check("picture", True, "not looked at: --camera names a camera")
    size_px = SIZE_PX if seen.manifest is None else (seen.manifest.input.height_px, seen.manifest.input.width_px)
    camera = opened.enter_context(closing(CameraReader(settings.camera, *size_px)))
    image = camera.latest().image
    check_sight(Observation({CAMERA: image}, np.zeros(1), 0.0), None, CAMERA)
    seen.camera = camera
    recorded = "a recording: no arm moves by it" if camera.recorded else "live"
    return Check(
        "picture", True, f"{settings.camera} shows something, {recorded}, fitted to {size_px[1]} x {size_px[0]}"
    )


def _robot(settings: ReadinessSettings, seen: Seen) -> Sequence[Check]:
    """Look at the robot, locked, for a second, and whether the bundle's actions are of its joints."""
    if settings.arm is None:
        return [Check("robot", True, "not looked at: --arm names its address")]
    spec, camera = load_robot(settings.robot, settings.limits), seen.camera or NoCamera()
    arm = open_live(spec, settings.arm, settings.driver_settings(), camera, CAMERA, dry_run=True)
    with closing(arm):
        checks = [check for check in arm.checks() if seen.camera is not None or check.what != "camera"]
        if seen.manifest is not None:
            action = seen.manifest.action
            check_actions(action, spec.name, arm.recorded().joint_names)
            checks.append(Check("actions", True, f"{action.space}, every {action.period_s:g} s"))
    return checks


class NoCamera:
    """A missing camera; implements `runtime.seams.Camera`."""

    recorded = False

    def latest(self) -> Any:
        """Raise `ConfigError`: there is none."""
        raise ConfigError("CAMERA_OPTION", "no camera is named; --camera names it")

    def frame_s(self) -> None:
        """Return None."""

    def close(self) -> None:
        """Nothing is open."""


def _clock() -> Check:
    late_s = 0.0
    for _ in range(TICKS):
        due_s = time.monotonic() + TICK_S
        time.sleep(TICK_S)
        late_s = max(late_s, time.monotonic() - due_s)
    return Check(
        "clock",
        late_s <= LATE_S,
        f"of {TICKS} ticks of {TICK_S * 1000:.0f} ms the latest was {late_s * 1000:.1f} ms late",
        "end other programs; allow real-time priority",
    )


def _disk() -> Check:
    place = RUNS if RUNS.exists() else Path.cwd()
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    found = f"{free / 1e9:.1f} GB free at {place}{'' if writable else ', which cannot be written'}"
    return Check("disk", writable and free >= FREE_BYTES, found, "free some, or start in another directory")


def _permissions() -> Iterator[Check]:
    allowed = realtime()
    yield Check(
        "real-time priority",
        True,
        "allowed" if allowed else "not allowed: `ulimit -r 20` helps where ticks come late",
    )
    shut = [
        path
        for pattern in DEVICES
        for path in sorted(Path("/").glob(pattern[1:]))
        if not os.access(path, os.R_OK | os.W_OK)
    ]
    if shut:
        yield Check(
            "devices", False, f"not ours: {', '.join(map(str, shut))}", "add this user to the groups dialout and video"
        )
