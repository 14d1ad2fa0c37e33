"""A written video states its colours, and is a GIF where nothing can encode H.264."""

import numpy as np
import pytest

from dvgwm.runtime.cameras.footage import open_footage
from dvgwm.runtime.display.video import write_video

av = pytest.importorskip("av", reason="PyAV is not installed")
pytestmark = pytest.mark.video

COLOURS = ((255, 255, 255), (0, 0, 0), (220, 40, 40), (40, 180, 60), (40, 60, 220), (200, 200, 40))


def bars():
    return np.tile(np.repeat(np.array(COLOURS, np.uint8), 16, axis=0), (3, 64, 1, 1))


def test_a_video_says_which_colours_it_has_and_keeps_them(tmp_path):
    path = write_video(tmp_path / "clip", bars(), 10)
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        tags = codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range
    bt709, limited = 1, 1  # the first three: ISO/IEC 23001-8; the range: FFmpeg's number
    assert tuple(map(int, tags)) == (bt709, bt709, bt709, limited)
    shown = open_footage(path).sampled(10, 1)[0][32, 8::16]
    assert np.abs(shown.astype(int) - COLOURS).max() <= 4


def test_a_build_without_h264_writes_a_gif(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    path = write_video(tmp_path / "clip", bars(), 10)
    assert path.suffix == ".gif"
    assert path.read_bytes().startswith(b"GIF89a")
