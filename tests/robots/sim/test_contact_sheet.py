import numpy as np

from dvgwm.robots.sim.contact_sheet import contact_sheet


def test_frames_lie_in_rows_with_white_gaps():
    frames = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = contact_sheet(frames, columns=2, gap_px=1)
    assert sheet.shape == (5, 7, 3)
    assert (sheet[:2, :3] == 10).all()
    assert (sheet[:2, 4:] == 20).all()
    assert (sheet[3:, :3] == 30).all()
    assert (sheet[2] == 255).all()
    assert (sheet[3:, 4:] == 255).all()
