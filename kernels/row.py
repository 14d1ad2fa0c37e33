"""A row of numbers in the registers of one block of threads, in parts, so no lane idles."""

from .language import ceil_div, power_of_two

LEAST_PART, MOST_PARTS = 128, 16


def part_of(width: int) -> int:
    """Return the lanes of a part, a power of two, for rows of ``width`` numbers.

    They divide the width if there are then at most `MOST_PARTS` of at least `LEAST_PART` (3072 is three times 1024, 1920
    fifteen times 128). Any other row is one part, and its last lanes idle.
    """
    part = width & -width
    return part if part >= LEAST_PART and width <= MOST_PARTS * part else power_of_two(width)


def warps_of(width: int, numbers: int) -> int:
    """Return the warps with at most ``numbers`` of a row in a thread, as far as every load still has two of them."""
    return max(min(power_of_two(ceil_div(width, 32 * numbers)), part_of(width) // 64), 1)
