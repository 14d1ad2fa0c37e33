"""Videos out: H.264 in mp4 where PyAV is installed, an animated GIF otherwise."""

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..files import write_atomic
from ..types import ImageArray

BAND_PX, GAP_PX = 16, 4
MIN_HEIGHT_PX = 256
RATE_DENOMINATOR = 1_000_000
"""Fine enough that frame k is at k / fps for hours: rows of a data set are found by that."""
PALETTE_FRAMES = 8
"""Frames, spread over a GIF, from which its colours are taken."""


def write_video(path: Path, frames: Iterable[ImageArray], fps: float) -> Path:
    """Write uint8 H W 3 frames, one after the other, to ``path`` and return where they are: .mp4 or .gif becomes its suffix.

    Raises `RecordingError` if the place cannot be written.
    """
    try:
        data, suffix = encode_mp4(frames, fps), ".mp4"
    except ImportError:
        data, suffix = encode_gif(np.stack(list(frames)), fps), ".gif"
    target = path.with_suffix(suffix)
    write_atomic(target, data)
    return target


def side_by_side(left: ImageArray, right: ImageArray, labels: tuple[str, str]) -> Iterator[ImageArray]:
    """Yield frames of both videos beside one another under their labels, enlarged if small; the shorter holds its last."""
    scale = max(1, round(MIN_HEIGHT_PX / left.shape[1]))
    bands = [_band(label, scale * video.shape[2]) for video, label in zip((left, right), labels, strict=True)]
    gap = np.full((BAND_PX + scale * left.shape[1], GAP_PX, 3), 255, np.uint8)
    for index in range(max(len(left), len(right))):
        shown = [video[min(index, len(video) - 1)].repeat(scale, 0).repeat(scale, 1) for video in (left, right)]
        panels = [np.concatenate(panel) for panel in zip(bands, shown, strict=True)]
        yield np.concatenate([panels[0], gap, panels[1]], 1)


def contact_sheet(rows: Sequence[ImageArray], every: int, columns: int = 9) -> ImageArray:
    """Return every ``every``-th frame of each video as one image: lines of ``columns`` frames, the videos under one another."""
    videos = [video[::every] for video in rows]
    height, width = videos[0].shape[1:3]
    lines = []
    for begin in range(0, max(map(len, videos)), columns):
        for video in videos:
            line = np.full((height + 2, columns * (width + 2), 3), 255, np.uint8)
            for column, frame in enumerate(video[begin : begin + columns]):
                line[:height, column * (width + 2) : column * (width + 2) + width] = frame
            lines.append(line)
        lines.append(np.full((height // 8, columns * (width + 2), 3), 255, np.uint8))
    return np.concatenate(lines[:-1])


def png(image: ImageArray) -> bytes:
    """Return ``image`` as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def _band(label: str, width_px: int) -> ImageArray:
    band = Image.new("RGB", (width_px, BAND_PX), "white")
    ImageDraw.Draw(band).text((4, 2), label, fill="black")
    return np.asarray(band)


def encode_mp4(
    frames: Iterable[ImageArray],
    fps: float,
    key_frame_every: int | None = None,
    key_frames: frozenset[int] = frozenset(),
) -> bytes:
    """Return uint8 H W 3 frames as an H.264 mp4 file's bytes, ``key_frames`` decodable on their own.

    With ``key_frame_every`` it is made fast, not small. Raises `ImportError` if PyAV or its encoder is missing.
    """
    from fractions import Fraction

    import av
    from av.video.frame import PictureType
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    if "libx264" not in av.codecs_available:
        raise ImportError("this build of PyAV has no H.264 encoder")
    frames = iter(frames)
    first = next(frames)
    height, width = first.shape[:2]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        fast = {"g": str(key_frame_every), "preset": "ultrafast", "threads": "1"}
        options = {"crf": "18"} | (fast if key_frame_every else {})
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(RATE_DENOMINATOR), options=options
        )
        # yuv420p halves the colour planes: odd sizes get one more row or column of the edge.
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        # Players guess the colours of untagged video by its size, so the file says which they are: BT.709, limited range.
        colours = stream.codec_context
        colours.colorspace = colours.color_primaries = colours.color_trc = Colorspace.ITU709
        colours.color_range = ColorRange.MPEG
        reformatter = VideoReformatter()  # one for all: setting it up costs more than a small frame
        for index, image in enumerate(itertools.chain([first], frames)):
            even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgb24")
            frame = reformatter.reformat(
                frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pict_type = PictureType.I if index in key_frames else PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_gif(frames: ImageArray, fps: float) -> bytes:
    """Return uint8 T H W 3 frames as the bytes of an animated GIF in an endless loop.

    One palette for all and no dithering: a still pixel stays the same and costs nothing.
    """
    shown = np.concatenate(frames[:: max(1, len(frames) // PALETTE_FRAMES)], 0)
    palette = Image.fromarray(shown).quantize(256)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "gif", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    return buffer.getvalue()
