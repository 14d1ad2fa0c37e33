"""What a run remembers of itself: all of it while it is short, and never more than its bound."""

import tracemalloc

import numpy as np
import pytest

from dvgwm.runtime import loop
from dvgwm.runtime.film import MOST_BYTES, MOST_FRAMES, Film, together
from dvgwm.runtime.types import Plan


def frame(number, size=(4, 6)):
    return np.full((*size, 3), number % 251, np.uint8)


def shown(film, every=None):
    return [int(image[0, 0, 0]) for image in film.frames(every or film.every)]


def test_a_short_run_is_remembered_whole():
    film = Film()
    for number in range(96):
        film.add(frame(number))
    assert (film.every, shown(film)) == (1, list(range(96)))


@pytest.mark.parametrize("count", [8, 9, 16, 17, 100, 1000])
def test_a_long_run_is_shown_from_its_beginning_to_its_end_in_even_steps(count):
    film = Film(most_frames=8)
    for number in range(count):
        film.add(frame(number))
    assert 4 <= len(shown(film)) <= 8
    assert shown(film) == [number % 251 for number in range(0, count, film.every)]


def test_a_film_is_no_larger_than_its_bound_and_keeps_nothing_else_alive():
    film, plan = Film(most_bytes=10 * frame(0).nbytes), np.zeros((49, 4, 6, 3), np.uint8)
    for number in range(500):
        film.add(plan[number % 49])
        assert film.nbytes <= 10 * frame(0).nbytes
    assert all(image.base is None for image in film._frames)


@pytest.mark.parametrize(("ours", "theirs"), [(20, 20), (17, 16), (16, 17), (3, 2)])
def test_two_films_show_the_same_moments(ours, theirs):
    one, other = Film(most_frames=8), Film(most_frames=8)
    for number in range(ours):
        one.add(frame(number))
    for number in range(theirs):
        other.add(frame(number))
    left, right, every = together(one, other)
    assert every == max(one.every, other.every)
    assert [int(image[0, 0, 0]) for image in left] == list(range(0, ours, every))
    assert [int(image[0, 0, 0]) for image in right] == list(range(0, theirs, every))


def large(number, mega_bytes=7):
    frames = np.full((49, 100, mega_bytes * 10_000 // 2 // 49 // 3, 3), number % 251, np.uint8)
    latents = {"lr": np.zeros((mega_bytes * 1_000_000 - frames.nbytes) // 4, np.float32)}
    return Plan(frames, None, latents, "push", number)


@pytest.mark.parametrize(("plans", "mega_bytes"), [(30, 7), (120, 7), (8, 61)])
def test_however_many_plans_there_were_memory_has_a_bound(plans, mega_bytes):
    """Of 7 MB each, as the shipped bundle's, and of 61, as those at full size."""
    episode = loop.EpisodeResult()
    tracemalloc.start()
    try:
        for number in range(plans):
            episode.add(float(number), large(number, mega_bytes), 48)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    whole = sum(loop.plan_bytes(plan) for _, plan in episode.plans)
    assert whole <= loop.PLANS_BYTES
    assert held <= loop.PLANS_BYTES + MOST_BYTES + 20_000_000
    assert len(episode.plans) == plans
    last = episode.plans[-1][1]
    assert last.frames.shape[0] == 49
    assert last.latents
    assert [plan.seed for _, plan in episode.plans] == list(range(plans))
    if plans * mega_bytes * 1_000_000 < loop.PLANS_BYTES:
        assert all(len(plan.frames) for _, plan in episode.plans)
    assert episode.imagined.seen == 1 + 48 * plans
    assert len(episode.imagined.frames(episode.imagined.every)) <= MOST_FRAMES


def test_one_plan_that_is_larger_than_the_bound_is_kept(monkeypatch):
    monkeypatch.setattr(loop, "PLANS_BYTES", 1_000_000)
    episode = loop.EpisodeResult()
    for number in range(4):
        episode.add(0.0, large(number), 8)
    assert [len(plan.frames) for _, plan in episode.plans] == [0, 0, 0, 49]
