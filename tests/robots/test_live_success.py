"""Whether an arm behind ROS topics, in real time, solves what the simulator solves: fifty layouts, with --soak."""

from pathlib import Path

import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.live import open_live_arm
from dvgwm.runtime.cameras.reader import CameraReader
from dvgwm.runtime.config.plugins import open_simulation
from dvgwm.runtime.config.settings import EngineSettings
from dvgwm.runtime.loop import EpisodeOptions, run_episode
from dvgwm.runtime.pipeline import Overrides
from dvgwm.runtime.profiler import Profiler

pytestmark = [pytest.mark.sim, pytest.mark.ort, pytest.mark.slow]
EPISODES, APART, ACTIONS = 50, 2, 96


def simulated(pipeline, task, seed):
    arm = open_simulation(ROBOT, task, seed, pipeline)
    try:
        options = EpisodeOptions(arm.scene.instruction, seed, 48, ACTIONS)
        return run_episode(arm, pipeline, options, Profiler(), solved=arm.scene.solved)
    finally:
        arm.close()


def live(pipeline, node, seed):
    size_px = pipeline.manifest.input.height_px, pipeline.manifest.input.width_px
    camera = CameraReader(f"ros://{node.address}{node.ready['camera']}", *size_px)
    try:
        seen = {"camera": camera, "camera_name": pipeline.manifest.input.camera, "dry_run": False}
        arm = open_live_arm(ROBOT, address=node.address, settings={}, **seen)
        try:
            assert all(check.fine for check in arm.checks())
            arm.arm()
            options = EpisodeOptions(node.ready["instruction"], seed, 48, ACTIONS)
            return run_episode(arm, pipeline, options, Profiler(), solved=lambda: node.ask()["solved"])
        finally:
            arm.close()
    finally:
        camera.close()


def test_live_solves_what_the_simulator_solves(a1_node, soak, tmp_path, capfd):
    if not soak.all:
        pytest.skip("takes a quarter of an hour: --soak SEED")
    solved = {"simulated": [], "live": []}
    with EngineSettings(None, None, None, Path(tmp_path), Overrides()).open() as pipeline:
        pipeline.warmup()
        tasks = ROBOT.simulation.tasks
        for index in range(EPISODES):
            task, seed = tasks[index % len(tasks)], soak.seed + index // len(tasks)
            node = a1_node(task=task, seed=seed)
            there = live(pipeline, node, seed)
            node.close()
            here = simulated(pipeline, task, seed)
            solved["live"].append(there.solved)
            solved["simulated"].append(here.solved)
            stops = [episode.stopped.log_code for episode in (here, there) if episode.stopped is not None]
            with capfd.disabled():
                print(
                    f"{index + 1} {task} {seed}: simulated {here.solved}, live {there.solved} {' '.join(stops)}",
                    flush=True,
                )
    counts = {where: sum(results) for where, results in solved.items()}
    with capfd.disabled():
        print(counts)
    assert abs(counts["live"] - counts["simulated"]) <= APART
