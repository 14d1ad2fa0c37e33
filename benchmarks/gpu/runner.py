"""Runs a part in a process of its own, and in another one behind whatever ended it, until its time is over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .code import ROOT
from .measure import SPOILED, running_file
from .parts import PACKAGE
from .rows import DONE, Rows

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """When all has to be over, on the monotonic clock, and how long one variant may take."""

    end_s: float
    variant_s: float


def run_part(rows: Rows, options: Sequence[str], limits: Limits) -> str:
    """Run one part to its end and return "" or why it did not come there.

    A variant that ends its process, or that has no end, is recorded as refused, and the part goes on behind it.
    """
    while True:
        ended = _process(rows, options, limits)
        if ended == "done":
            return ""
        if ended == "late":
            return "its time is over; what it has measured is kept, the next call goes on there"
        variant = _running(rows)
        if ended == "spoiled" and variant is None:
            continue  # it has said what spoiled the GPU's context
        if variant is None:
            return f"{ended} outside any variant; the last lines above say why"
        rows.add(variant[0], {"variant": variant[1], "refused": f"its process {ended}"})
        print(f"{variant[0]}, {variant[1]}: its process {ended}; going on behind it", flush=True)


def _process(rows: Rows, options: Sequence[str], limits: Limits) -> str:
    """Return how a process of the part ended: done, late, spoiled, or in words."""
    running_file(rows.file).unlink(missing_ok=True)
    if time.monotonic() >= limits.end_s:
        return "late"
    command = [sys.executable, "-m", PACKAGE, "--one", rows.part, *options]
    # A group of its own: what compiles in the background ends with it.
    process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), process_group=0)
    variant, since = None, time.monotonic()
    try:
        while process.poll() is None:
            now = time.monotonic()
            if (found := _running(rows)) != variant:
                variant, since = found, now
            if now >= limits.end_s:
                return "late"
            if variant is not None and now - since > limits.variant_s:
                return f"had no end after {limits.variant_s:.0f} s"
            time.sleep(POLL_S)
    finally:
        _kill(process)
    code = process.returncode
    if code == 0:
        return "done" if rows.find(DONE) else "ended too early"
    if code == SPOILED:
        return "spoiled"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _running(rows: Rows) -> tuple[str, str] | None:
    """Return the variant that the part says it measures."""
    try:
        part, name, variant = json.loads(running_file(rows.file).read_text())
    except (OSError, ValueError):
        return None
    return (name, variant) if part == rows.part else None
