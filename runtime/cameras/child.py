"""A camera in a process of its own: whatever its library does, whoever reads it goes on, and can end it."""

import json
import os
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import CameraLostError, DvgwmError
from .image import fit
from .slots import Slots
from .source import open_source
from .watch import Watch

READ_S = 0.2


def run(order: Mapping[str, Any]) -> int:
    """Write the frames of the camera that ``order`` names until nobody reads them any more; returns the exit code."""
    slots = Slots(order["height_px"], order["width_px"], order["memory"])
    try:
        source = open_source(order["address"])
        watch = Watch(source.noisy, replace(slots.tally(), recorded=source.recorded))
        try:
            while not select.select([order["life"]], [], [], 0.0)[0]:
                frame = source.read(READ_S)
                if frame is None:
                    continue
                at_s = watch.taken_s(frame, time.monotonic())
                if at_s is None:
                    slots.count(watch.tally)
                else:
                    slots.write(fit(frame.image, order["height_px"], order["width_px"]), at_s, watch.tally)
        finally:
            source.close()
    except DvgwmError as error:
        sys.stderr.write(f"{error.line}\n")
        return error.exit_code
    except Exception as error:  # a vendor's own
        sys.stderr.write(
            f"{CameraLostError('CAMERA_DRIVER', f'the camera failed: {type(error).__name__}: {error}').line}\n"
        )
        return CameraLostError.exit_code
    return 0


def main() -> None:
    """Run the order on the command line, and leave without waiting for the library's threads."""
    code = run(json.loads(sys.argv[1]))
    sys.stderr.flush()
    os._exit(code)


def command(order: Mapping[str, Any]) -> list[str]:
    """Return the words that start the process; it inherits the descriptors ``memory`` and ``life``."""
    quiet = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])"  # its reader ends it
    return [sys.executable, "-c", f"{quiet}\nfrom dvgwm.runtime.cameras.child import main\nmain()", json.dumps(order)]
