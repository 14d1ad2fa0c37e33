"""A camera in a process of its own: whatever its library does, whoever reads it goes on, and can end it."""

import json
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..child import cut_log, end_process
from ..errors import CameraLostError, DvgwmError
from .image import fit
from .slots import Slots
from .source import open_source
from .watch import Watch

READ_S = 0.2


def run(order: Mapping[str, Any]) -> DvgwmError | None:
    """Write the frames of the camera that ``order`` names until nobody reads them any more; returns the error that ended it."""
    slots = Slots(order["height_px"], order["width_px"], order["memory"])
    try:
        source = open_source(order["address"])
        watch = Watch(source.noisy, replace(slots.tally(), recorded=source.recorded))
        try:
            said = ""
            while not select.select([order["life"]], [], [], 0.0)[0]:
                cut_log()
                frame = source.read(READ_S)
                if frame is None:
                    continue
                at_s = watch.taken_s(frame, time.monotonic(), time.time())
                if watch.said != said:
                    said = watch.said
                    sys.stderr.write(f"{said}\n")
                if at_s is None:
                    slots.count(watch.tally)
                else:
                    slots.write(fit(frame.image, order["height_px"], order["width_px"]), at_s, watch.tally)
        finally:
            source.close()
    except DvgwmError as error:
        return error
    except (Exception, SystemExit) as error:  # a vendor's own
        return CameraLostError("CAMERA_DRIVER", f"the camera failed: {type(error).__name__}: {error}")
    return None


def main() -> None:
    """Run the order on the command line, and leave without waiting for the library's threads."""
    error = run(json.loads(sys.argv[1]))
    end_process(0 if error is None else error.exit_code, error)
