"""What a bundle was not trained on is told: words, sentences, robots, pictures; nothing is told of what it knows."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.bundle.manifest import Learned, dump, parse
from dvgwm.runtime.commands.live import _familiar
from dvgwm.runtime.config.plugins import shipped
from dvgwm.runtime.config.settings import LiveSettings
from dvgwm.runtime.errors import BundleCorruptError, ConfigError
from dvgwm.runtime.familiar import distance, picture_stats, unfamiliar, words_of

RNG = np.random.default_rng(7)
SCENE = RNG.integers(60, 200, (8, 12, 3)).repeat(8, 0).repeat(8, 1)


def picture():
    """The scene with a square somewhere, and a little noise."""
    image = SCENE + RNG.normal(0, 3, SCENE.shape)
    row, column = RNG.integers(0, 48), RNG.integers(0, 80)
    image[row : row + 16, column : column + 16] = (220, 30, 30)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def learned():
    stats = picture_stats([picture() for _ in range(300)], [picture() for _ in range(100)])
    return Learned(
        ("put the cup away", "open the door"),
        ("away", "cup", "door", "open", "put", "the"),
        ("scene",),
        ("arm",),
        stats,
    )


def told(learned, instruction="put the cup away", image=None, robot="arm"):
    return [each.what for each in unfamiliar(learned, instruction, picture() if image is None else image, robot)]


def test_what_it_was_trained_on_is_not_told(learned):
    assert [told(learned) for _ in range(50)] == [[]] * 50
    assert told(learned, "Put the CUP away.") == []
    assert told(learned, robot=None) == []


def test_words_sentences_and_robots_are_told(learned):
    assert told(learned, "put the hammer away") == ["word"]
    assert told(learned, "open the cup") == ["sentence"]
    assert told(learned, "put the cup away", robot="ur7e") == ["robot"]
    (found,) = unfamiliar(learned, "hit the hammer", picture(), "arm")
    assert "has the word 'hit' and 'hammer'; it knows: away, cup, door, open, put, the" in found.message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image: image[:, ::-1],
        lambda image: np.roll(image, 24, 1),
        lambda image: (image * 0.5).astype(np.uint8),
        lambda image: np.full_like(image, 128),
        lambda image: RNG.integers(0, 256, image.shape, np.uint8),
        lambda image: image[..., ::-1],
    ],
    ids=["mirrored", "moved", "dark", "grey", "noise", "blue for red"],
)
def test_another_picture_is_told(learned, spoil):
    assert told(learned, image=np.ascontiguousarray(spoil(picture()))) == ["picture"]


def test_distances_are_in_deviations(learned):
    assert 0.8 < np.mean([distance(learned.pictures, picture()) for _ in range(100)]) < 1.2
    assert list(learned.pictures.quantiles) == sorted(learned.pictures.quantiles)


def test_a_bundle_that_says_nothing_is_asked_nothing():
    assert told(None, "anything", np.zeros((4, 4, 3), np.uint8)) == []
    assert told(Learned((), (), (), (), None), "anything") == []


def test_words_are_found_in_any_spelling():
    assert words_of("Put the CUP-holder, it's  2nd!") == ("put", "the", "cup-holder", "it's", "2nd")
    assert words_of("stelle die Tasse auf den Tisch") == ("stelle", "die", "tasse", "auf", "den", "tisch")
    assert words_of("把杯子放到碗里") == ("把杯子放到碗里",)


def test_a_manifest_says_what_was_learned_and_is_checked(make_bundle, learned):
    manifest = replace(make_bundle().manifest, learned=learned)
    assert parse(dump(manifest)).learned == learned
    for column, wrong in (("mean", [0.5]), ("deviation", [0.0] * 288), ("quantiles", [1.0]), ("mean", [2.0] * 288)):
        raw = json.loads(dump(manifest))
        raw["learned"]["pictures"][column] = wrong
        with pytest.raises(BundleCorruptError, match=f"learned.pictures.{column}"):
            parse(json.dumps(raw).encode())


def live(**more):
    return LiveSettings("arm", "localhost:1", "l515", "x", 0, 1, None, **more)


def test_a_real_arm_is_not_moved_by_what_was_never_learned(learned):
    with pytest.raises(ConfigError, match=r"has the word 'hammer'.*to go on all the same add --unfamiliar") as caught:
        _familiar(live(), learned, "put the hammer away", picture())
    assert caught.value.log_code == "UNFAMILIAR"
    with pytest.raises(ConfigError, match="deviations off"):
        _familiar(live(dry_run=True), learned, "put the cup away", np.zeros_like(picture()))
    assert [each.what for each in _familiar(live(unfamiliar=True), learned, "put the hammer away", picture())] == [
        "word"
    ]
    assert [each.what for each in _familiar(live(), learned, "open the cup", picture())] == ["sentence"]
    assert _familiar(live(), learned, "open the door", picture()) == ()


@pytest.mark.ort
def test_the_shipped_bundle_tells_a_hammer_and_a_photograph(tmp_path):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    if not (shipped("a1_tiny") / "manifest.json").is_file():
        pytest.skip("no trained bundle ships with this version")
    from PIL import Image

    learned = read_bundle(shipped("a1_tiny")).manifest.learned
    assert learned.robots == ("galaxea_a1",)
    Image.fromarray(RNG.integers(0, 256, (90, 120, 3), np.uint8)).resize((640, 480)).save(tmp_path / "photo.png")
    words = ["--plan-only", "--camera", "photo.png", "--instruction", "put the hammer into the bowl", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "dvgwm.runtime", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["unfamiliar word", "unfamiliar picture"]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert [each["what"] for each in facts["unfamiliar"]] == ["word", "picture"]
    assert "Unfamiliar word: no instruction that it was trained on" in (tmp_path / "run/report.html").read_text()


@pytest.mark.ort
@pytest.mark.sim
def test_the_shipped_bundle_knows_its_own_tasks():
    pytest.importorskip("mujoco", reason="the sim extra is not installed")
    from dvgwm.robots.sim.driver import MujocoRobot
    from dvgwm.robots.sim.tasks import TASKS
    from dvgwm.robots.spec import SimulationOptions

    manifest = read_bundle(shipped("a1_tiny")).manifest
    size = manifest.input.height_px, manifest.input.width_px
    for task in TASKS:
        robot = MujocoRobot(SimulationOptions(task, 960_001, *size))
        robot.connect()
        found = unfamiliar(manifest.learned, robot.instruction, robot.images()["scene"], "galaxea_a1")
        assert list(found) == [], task
        robot.disconnect()
