"""Manifests edited at random: each is refused with a code of its own, or plans with numbers that are finite."""

import json
import random
import resource
import time
from collections import Counter
from copy import deepcopy

import numpy as np
import pytest

from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.errors import LONGEST_LINE, DvgwmError
from dvgwm.runtime.pipeline import Pipeline

EDITS = 10_000
LONGEST_S = 20.0
LARGEST_BYTES = 1 << 30
NUMBERS = [
    0,
    -1,
    1,
    2,
    3,
    7,
    16,
    48,
    1000,
    4097,
    2**31,
    2**63,
    10**17,
    10**30,
    0.5,
    -0.1,
    1e-6,
    1e-30,
    1e-300,
    1e6,
    1e30,
    1e300,
]
OTHERS = [
    True,
    None,
    "",
    "x",
    "act",
    "text",
    "plan",
    "\x1b[31m",
    "\ud800",
    "a" * 5000,
    [],
    [0.0],
    [1.0] * 300,
    {},
    {"x": 1},
]
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400]
ALLOWED = {2, 10, 11, 12, 13, 30, 32}


def places(value, path=()):
    """Give the path of everything in a JSON value."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


def edited(rng, value):
    """Return the text of a manifest after one to three edits."""
    value, raw = deepcopy(value), {}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        *above, last = rng.choice([path for path in places(value) if path])
        inside = value
        for key in above:
            inside = inside[key]
        old, how = inside[last], rng.random()
        if isinstance(old, int | float) and not isinstance(old, bool) and how < 0.7:
            inside[last] = rng.choice([*NUMBERS, old + 1, old - 1, old * 2, -old, old * 1.0001, 1e3 * old, old / 1e3])
        elif how < 0.1:
            raw[marker := f"RAW{rng.random()}"] = rng.choice(RAW)
            inside[last] = marker
        elif how < 0.2:
            del inside[last]
        elif how < 0.3 and isinstance(old, dict):
            old[rng.choice(["x", "file", "constants", *old])] = deepcopy(rng.choice([*NUMBERS, *OTHERS]))
        elif how < 0.4 and isinstance(inside, list):
            inside.insert(rng.randrange(len(inside) + 1), deepcopy(rng.choice(inside)))
        else:
            inside[last] = deepcopy(rng.choice([*NUMBERS, *OTHERS]))
    text = json.dumps(value)
    for marker, number in raw.items():
        text = text.replace(f'"{marker}"', number)
    if rng.random() < 0.03:
        text = text.replace('"fps"', '"fps": 9.0, "fps"', 1)
    return text


def outcome(path, backend, observation):
    """Return what became of the bundle at ``path``: the exit code of its refusal, or 0 after a plan."""
    try:
        bundle = read_bundle(path, "fake")
        with Pipeline(bundle, backend) as pipeline:
            pipeline.warmup()
            plan = pipeline.imagine([observation], "push the cube", 0)
            chunk = pipeline.act(plan, [observation], "push the cube")
    except DvgwmError as error:
        if len(error.line) > LONGEST_LINE or not error.line.isprintable():
            raise RuntimeError(f"no line to show: {error.line!r}") from error
        return error.exit_code
    assert np.isfinite(chunk.actions).all()
    assert np.isfinite(chunk.times_s).all()
    assert all(np.isfinite(latents).all() for latents in plan.latents.values())
    return 0


@pytest.mark.slow
@pytest.mark.thorough
def test_no_edit_crashes_hangs_or_plans_with_what_is_not_finite(make_bundle, observation, soak):
    backend, rng = open_backend("fake", None), random.Random(soak.seed)
    paths = [make_bundle("dvgwm", "dvgwm").path, make_bundle("dream4manip", "dream").path]
    whole = [json.loads((path / "manifest.json").read_text()) for path in paths]
    codes, slowest = Counter(), (0.0, "")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(EDITS):
        text = edited(rng, whole[index % 2])
        (paths[index % 2] / "manifest.json").write_text(text)
        begun = time.perf_counter()
        try:
            codes[outcome(paths[index % 2], backend, observation)] += 1
        except Exception:
            print(f"edit {index}: {text}")
            raise
        slowest = max(slowest, (time.perf_counter() - begun, text))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"{dict(codes)}, slowest {slowest[0]:.2f} s, {grown / 1e6:.0f} MB more")
    assert codes.keys() <= ALLOWED | {0}
    assert slowest[0] < LONGEST_S, slowest[1]
    assert grown < LARGEST_BYTES
    assert codes[0] > 100, "some edits have to be harmless, or nothing is proven of what is accepted"
    assert codes[11] > EDITS // 2
