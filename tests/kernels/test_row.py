"""Rows in parts: no lane of a shipped kernel idles."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels import modulate, quantise
from dvgwm.kernels.row import part_of, warps_of

pytestmark = pytest.mark.torch


def test_no_lane_of_what_is_shipped_idles():
    shipped = [variant.constants for module in (modulate, quantise) for variant in module.variants(90)]
    assert {made["D"] for made in shipped} == {1920, 3072, 7680, 12288}
    assert all(made["D"] % made["PART"] == 0 for made in shipped)


@pytest.mark.parametrize(
    ("width", "part"), [(3072, 1024), (1920, 128), (12288, 4096), (7680, 512), (4096, 4096), (100, 128), (2176, 4096)]
)
def test_parts_are_powers_of_two(width, part):
    """Any other row is one part with idle lanes."""
    assert part_of(width) == part


@pytest.mark.parametrize(
    ("width", "numbers", "warps"),
    [(12288, 64, 8), (7680, 64, 4), (1920, 64, 1), (1920, 32, 2), (100, 64, 1), (1920, 1, 2)],
)
def test_a_thread_has_few_numbers_and_wide_loads(width, numbers, warps):
    assert warps_of(width, numbers) == warps
    assert width <= 64 * 32 * warps
