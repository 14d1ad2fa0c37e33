"""What the build command does before it builds."""

import platform
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

pytestmark = pytest.mark.torch
KEPT = """
import sys
import numpy as np
from dvgwm.export.console import _free_at_once

if sys.argv[1] == "at once":
    _free_at_once()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
first = np.ones(30 << 20, np.uint8)
del first  # glibc learns from it that blocks of this size come and go
before = resident()
blocks = [(np.ones(4 << 20, np.uint8), np.ones(64 << 10, np.uint8)) for _ in range(50)]
small = [pin for _, pin in blocks]
del blocks
print(resident() - before)
"""


@pytest.mark.thorough
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_tensors_go_back_to_the_system():
    kept = {
        how: int(subprocess.run([sys.executable, "-c", KEPT, how], capture_output=True, check=True).stdout)
        for how in ("at once", "as it is")
    }
    assert kept["at once"] < 20 << 20
    assert kept["as it is"] > 100 << 20, "what it is for"
