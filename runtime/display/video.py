"""Videos out: H.264 in mp4 where PyAV is installed, an animated GIF otherwise."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..files import write_atomic
from ..types import ImageArray

BAND_PX, GAP_PX = 16, 4
MIN_HEIGHT_PX = 256
PALETTE_FRAMES = 8
"""Frames, spread over a GIF, from which its colours are taken."""


def write_video(path: Path, frames: ImageArray, fps: float) -> Path:
    """Write uint8 T H W 3 frames to ``path`` and return where they are: its suffix becomes .mp4 or .gif.

    Raises `RecordingError` where the place cannot be written.
    """
    try:
        data, suffix = encode_mp4(frames, fps), ".mp4"
    except ImportError:
        data, suffix = encode_gif(frames, fps), ".gif"
    target = path.with_suffix(suffix)
    write_atomic(target, data)
    return target


def side_by_side(left: ImageArray, right: ImageArray, labels: tuple[str, str] = ("imagined", "real")) -> ImageArray:
    """Return both videos beside one another under their labels, enlarged where small; the shorter holds its last frame."""
    length = max(len(left), len(right))
    scale = max(1, round(MIN_HEIGHT_PX / left.shape[1]))
    panels = [_panel(video, length, scale, label) for video, label in zip((left, right), labels, strict=True)]
    gap = np.full((length, panels[0].shape[1], GAP_PX, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], 2)


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


def _panel(video: ImageArray, length: int, scale: int, label: str) -> ImageArray:
    indices = np.minimum(np.arange(length), len(video) - 1)
    large = video[indices].repeat(scale, 1).repeat(scale, 2)
    band = Image.new("RGB", (large.shape[2], BAND_PX), "white")
    ImageDraw.Draw(band).text((4, 2), label, fill="black")
    return np.concatenate([np.broadcast_to(np.asarray(band), (length, BAND_PX, large.shape[2], 3)), large], 1)


def encode_mp4(
    frames: ImageArray, fps: float, key_frame_every: int | None = None, key_frames: frozenset[int] = frozenset()
) -> bytes:
    """Return uint8 T H W 3 frames as an H.264 mp4 file's bytes, those of ``key_frames`` decodable on their own.

    With ``key_frame_every`` it is made fast, not small. Raises `ImportError` where PyAV or its encoder is missing.
    """
    from fractions import Fraction

    import av
    from av.video.frame import PictureType
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    if "libx264" not in av.codecs_available:
        raise ImportError("this build of PyAV has no H.264 encoder")
    height, width = frames.shape[1:3]
    # yuv420p halves the colour planes: odd sizes get one more row or column of the edge.
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        fast = {"g": str(key_frame_every), "preset": "ultrafast", "threads": "1"}
        options = {"crf": "18"} | (fast if key_frame_every else {})
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width, stream.pix_fmt = even.shape[1], even.shape[2], "yuv420p"
        # Players guess the colours of untagged video by its size, so the file says which they are: BT.709, limited range.
        colours = stream.codec_context
        colours.colorspace = colours.color_primaries = colours.color_trc = Colorspace.ITU709
        colours.color_range = ColorRange.MPEG
        reformatter = VideoReformatter()  # one for all: setting it up costs more than a small frame
        for index, image in enumerate(even):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame = reformatter.reformat(
                frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pict_type = PictureType.I if index in key_frames else PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_gif(frames: ImageArray, fps: float) -> bytes:
    """Return uint8 T H W 3 frames as the bytes of an animated GIF that plays on and on.

    One palette for all and no dithering: what does not move stays the same and costs nothing.
    """
    shown = np.concatenate(frames[:: max(1, len(frames) // PALETTE_FRAMES)], 0)
    palette = Image.fromarray(shown).quantize(256)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(buffer, "gif", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
    return buffer.getvalue()
