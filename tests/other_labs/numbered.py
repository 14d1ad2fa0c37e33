"""Pictures that carry a number, and clips of them: who reads one knows which frame it is, and whether it is upright."""

import os
import struct
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 48, 96
ROWS, COLUMNS = 4, 6
TOP, BOTTOM = (1, 1, 0, 1, 0, 0), (0,) * COLUMNS
"""No mirroring and no half turn of these rows is themselves."""
BITS = (ROWS - 2) * COLUMNS
DARK, BRIGHT = 40, 210


def picture(number, height=HEIGHT, width=WIDTH):
    """Return ``number``, below 4096, as blocks, uint8 H W 3."""
    bits = [number >> place & 1 for place in range(BITS)]
    blocks = np.array([*TOP, *bits, *BOTTOM]).reshape(ROWS, COLUMNS)
    grey = np.where(blocks, BRIGHT, DARK).astype(np.uint8)
    return np.repeat(grey.repeat(height // ROWS, 0).repeat(width // COLUMNS, 1)[..., None], 3, axis=2)


def number_of(image):
    """Return the number that ``image`` shows; raises AssertionError where it is mirrored, turned or no such picture."""
    height, width = image.shape[:2]
    rows = (np.arange(ROWS) + 0.5) * height / ROWS
    columns = (np.arange(COLUMNS) + 0.5) * width / COLUMNS
    grey = image[np.ix_(rows.astype(int), columns.astype(int))].mean(-1)
    assert np.abs(np.abs(grey - (DARK + BRIGHT) / 2) - (BRIGHT - DARK) / 2).max() < 40, grey
    blocks = (grey > (DARK + BRIGHT) / 2).astype(int)
    assert tuple(blocks[0]) == TOP
    assert tuple(blocks[-1]) == BOTTOM
    return sum(int(bit) << place for place, bit in enumerate(blocks[1:-1].ravel()))


def write_clip(
    path,
    numbers,
    fps=10,
    container="mp4",
    codec="libx264",
    ticks=None,
    time_base=None,
    pixel_aspect=None,
    size=(HEIGHT, WIDTH),
    options=None,
):
    """Write a clip of numbered pictures; with ``ticks`` of ``time_base`` each has its own time."""
    import av

    # SVT-AV1, as root, makes this thread and whatever it starts real-time of the highest priority, before motion's own.
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    with ExitStack() as stack:
        stack.callback(os.sched_setscheduler, 0, policy, priority)
        file = stack.enter_context(av.open(str(path), "w", format=container))
        stream = file.add_stream(
            codec, rate=Fraction(fps).limit_denominator(100_000), options={"threads": "1", **(options or {})}
        )
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(*pixel_aspect)
        if time_base:
            stream.time_base = stream.codec_context.time_base = time_base
        for index, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), "rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = int(ticks[index]), time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return Path(path)


def set_display_matrix(path, a, b, c, d):
    """State in the track header of a version 0 mp4 how it is to be shown (ISO 14496-12, 6.2.2 and 8.3.2)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    struct.pack_into(">9i", data, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
