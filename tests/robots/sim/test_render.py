import os
import subprocess
import sys

import numpy as np
import pytest

from dvgwm.robots.sim import render
from dvgwm.robots.sim.driver import MujocoRobot
from dvgwm.robots.sim.tasks import TASKS
from dvgwm.robots.spec import SimulationOptions
from dvgwm.runtime.errors import ConfigError

pytestmark = pytest.mark.sim

# A GL library is fixed per process: each renderer draws in one of its own.
DRAW = """
import pathlib
import sys
import numpy as np
from dvgwm.robots.sim.driver import MujocoRobot
from dvgwm.robots.spec import SimulationOptions
frames = []
for task in sys.argv[3:]:
    robot = MujocoRobot(SimulationOptions(task, 1, 64, 96), sys.argv[1])
    assert robot.renderer == sys.argv[1]
    frames += [robot.images()[camera] for camera in ("scene", "wrist")]
np.save(sys.argv[2], np.stack(frames))
maps = pathlib.Path("/proc/self/maps").read_text() if sys.platform == "linux" else ""
print("GL" if any(name in maps for name in ("libEGL", "libOSMesa", "libGL.", "libOpenGL")) else "no GL")
"""


def draw(renderer, path, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRAW, renderer, str(path), *TASKS],
        capture_output=True,
        text=True,
        env={**clean, **environment},
        timeout=120,
        check=False,
    )
    if f"{renderer} was asked for and does not work here" in done.stderr:
        pytest.skip(f"{renderer} does not work on this machine")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return np.load(path).astype(float), done.stdout.strip()


@pytest.mark.parametrize("library", render.GL_LIBRARIES)
def test_gl_and_rays_show_the_same_scene(library, tmp_path):
    gl, _ = draw(library, tmp_path / "gl.npy")
    rays, _ = draw("ray casting", tmp_path / "rays.npy")
    difference = np.abs(gl - rays).mean(axis=(1, 2, 3))
    assert (difference < 2.0).all(), difference
    # The check can fail: the scenes of two tasks differ by far more.
    things = np.abs(gl[::2] - np.roll(gl[::2], 1, axis=0)).max(axis=(1, 2, 3))
    assert (things > 60.0).all(), things
    strong = (np.abs(gl - rays).max(axis=3) > 60.0).mean(axis=(1, 2))
    assert (strong < 0.02).all(), strong


def test_ray_casting_loads_no_gl_library(tmp_path):
    _, loaded = draw("ray casting", tmp_path / "rays.npy", MUJOCO_GL="disable")
    assert loaded == "no GL"


def test_projected_bodies_have_their_own_colour():
    robot = MujocoRobot(SimulationOptions("push_cube", 2, 128, 192), "ray casting")
    image = robot.images()["scene"].astype(int)
    for name, channel in (("red cube", 0), ("green cube", 1), ("blue cube", 2)):
        row, column = pixel_of(robot, name)
        colour = image[row, column]
        assert colour[channel] > 2 * max(np.delete(colour, channel)) * 0.75, (name, colour)


def pixel_of(robot, name):
    model, data = robot._model, robot._data
    camera = model.camera("scene").id
    at = data.cam_xmat[camera].reshape(3, 3).T @ (robot.bodies()[name] - data.cam_xpos[camera])
    focal = 128 / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    return int(64 - focal * at[1] / -at[2]), int(96 + focal * at[0] / -at[2])


@pytest.mark.parametrize("task", TASKS)
def test_every_thing_is_inside_the_scene_cameras_image(task):
    for seed in range(20):
        robot = MujocoRobot(SimulationOptions(task, seed, 128, 192), "ray casting")
        for name in (*robot.layout.task.movable, "hand", "finger_left"):
            row, column = pixel_of(robot, name)
            assert 3 < row < 125, (seed, name)
            assert 3 < column < 189, (seed, name)


def test_what_the_user_set_is_respected(monkeypatch):
    monkeypatch.setattr(render, "works", lambda library: library == "osmesa")
    assert render.choose({"MUJOCO_GL": "egl"}) == "egl"
    assert render.choose({"MUJOCO_GL": "off"}) == "ray casting"
    assert render.choose({}) == "osmesa"


def test_nothing_works_means_rays(monkeypatch):
    monkeypatch.setattr(render, "works", lambda library: False)
    assert render.choose({}) == "ray casting"
    with pytest.raises(ConfigError, match="does not work here"):
        MujocoRobot(SimulationOptions("sweep", 0, 32, 48), "egl").images()


def test_unknown_renderer_is_refused():
    with pytest.raises(ConfigError, match="wanted one of egl, osmesa, ray casting"):
        MujocoRobot(SimulationOptions("sweep", 0, 32, 48), "crayons").images()


def test_a_library_that_does_not_load_is_found_out_without_noise(capfd):
    render.works.cache_clear()
    assert not render.works("no_such_library")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "command",
    [
        ("runtime.cli", "--robot", "galaxea_a1"),
        ("training.cli", "data", "--episodes", "25", "--out", "set"),
    ],
    ids=lambda command: command[0],
)
def test_a_renderer_that_mujoco_does_not_know_is_told_in_one_line(command, tmp_path):
    module, *words = command
    program = f"from dvgwm.{module} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path, env=os.environ | {"MUJOCO_GL": "cgl"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("E2 RENDERER MUJOCO_GL is 'cgl'; wanted egl, osmesa or off")
