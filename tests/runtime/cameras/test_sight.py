"""A camera that shows nothing, or nothing new, is lost."""

import numpy as np
import pytest

from dvgwm.runtime.cameras.sight import check_sight
from dvgwm.runtime.errors import CameraLostError
from dvgwm.runtime.types import Observation

SHAPE = (120, 160, 3)


def seen(image, *joints):
    return Observation({"scene": image}, np.array([*joints, 0.0]), 0.0)


def picture(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shade", [0, 128, 255])
@pytest.mark.parametrize("noise", [0.0, 2.0])
@pytest.mark.parametrize("shape", [SHAPE, (720, 1280, 3), (1, 1, 3)])
def test_one_shade_is_no_picture_with_a_sensors_noise_neither(shade, noise, shape):
    image = (shade + np.random.default_rng(1).normal(0.0, noise, shape)).clip(0, 255).astype(np.uint8)
    with pytest.raises(CameraLostError) as caught:
        check_sight(seen(image, 0.0), None, "scene")
    assert (caught.value.log_code, caught.value.exit_code) == ("CAMERA_BLANK", 20)


def test_a_dark_room_with_something_in_it_is_a_picture():
    image = np.full(SHAPE, 6, np.uint8)
    image[40:80, 40:80] = 30
    check_sight(seen(image, 0.0), None, "scene")


@pytest.mark.parametrize("moved", [0.0, 0.09])
def test_a_picture_may_stay_while_the_arm_does(moved):
    check_sight(seen(picture(), moved), seen(picture(), 0.0), "scene")


def test_a_picture_that_stays_while_the_arm_moves_is_frozen():
    with pytest.raises(CameraLostError) as caught:
        check_sight(seen(picture(), 0.3), seen(picture(), 0.0), "scene")
    assert (caught.value.log_code, caught.value.exit_code) == ("CAMERA_FROZEN", 20)
    check_sight(seen(picture(1), 0.3), seen(picture(), 0.0), "scene")


def test_small_steps_before_a_frozen_picture_add_up():
    since = None
    for step in range(4):
        since = check_sight(seen(picture(), 0.03 * step), since, "scene")
    with pytest.raises(CameraLostError, match=r"moved by 0\.12 rad"):
        check_sight(seen(picture(), 0.12), since, "scene")
    since = None
    for step in range(40):
        since = check_sight(seen(picture(step // 3), 0.03 * step), since, "scene")


@pytest.mark.parametrize(
    "image", [None, np.zeros(3, np.uint8), np.zeros(SHAPE, np.float32), np.zeros((0, 0, 3), np.uint8)]
)
def test_what_is_no_frame_is_for_others_to_judge(image):
    check_sight(seen(image, 0.0), None, "scene")
    check_sight(Observation({}, np.zeros(7), 0.0), None, "scene")
