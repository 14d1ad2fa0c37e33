"""A manifest is held against itself: ranges, lengths and shapes, all at once, before anything is opened."""

import json
import time

import pytest

from dvgwm.runtime.bundle.manifest import dump, parse
from dvgwm.runtime.errors import DvgwmError


@pytest.fixture
def manifest(make_bundle):
    return json.loads(dump(make_bundle().manifest))


def refusal(value) -> DvgwmError:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(DvgwmError) as caught:
        parse(text)
    assert caught.value.exit_code in (11, 12)
    return caught.value


def stage(manifest, name):
    return next(stage for stage in manifest["pipeline"] if stage["name"] == name)


def put(manifest, path, value):
    *above, last = path.split(".")
    inside = stage(manifest, above.pop(0)[1:]) if path.startswith("@") else manifest
    for key in above:
        inside = inside[int(key)] if isinstance(inside, list) else inside[key]
    inside[int(last) if isinstance(inside, list) else last] = value


EDITS = {
    "input.fps": ([0, -1, 1e-3, 1e9], "MANIFEST_RANGE"),
    "input.height_px": ([0, -8, 10**9], "MANIFEST_RANGE"),
    "input.width_px": ([96], "INPUT_SIZE"),
    "rates.act_every": ([0, -1, 10**9], "MANIFEST_RANGE"),
    "rates.history": ([-1, 1000], "MANIFEST_RANGE"),
    "text.max_tokens": ([0, 10**9], "MANIFEST_RANGE"),
    "text.tokenizer": (["sentencepiece"], "TOKENIZER_KIND"),
    "action.period_s": ([0, -0.1, 1e9], "MANIFEST_RANGE"),
    "action.units": ([["rad"] * 6], "ACTION_LENGTH"),
    "action.lower.2": ([0.5, 1e30], "ACTION_RANGE"),
    "pipeline": ([[]], "STAGE_ORDER"),
    "@preview.sampler.steps": ([101], "MANIFEST_RANGE"),
    "@preview.sampler.beta_end": ([0, 1.5, -1e300], "MANIFEST_FIELD"),
    "@preview.sampler.snr_shift": ([1e-300], "SAMPLER_RANGE"),
    "@preview.sampler.train_steps": ([10**9, 1], "MANIFEST_FIELD"),
    "@preview.engines.denoise.inputs.0.shape": ([[1, 3, 4, 2, 4]], None),
    "@preview.engines.denoise.outputs.0.shape.0": ([7], "ENGINE_SHAPE"),
    "@preview.engines.denoise.outputs.0.dtype": (["uint8"], "ENGINE_SHAPE"),
    "@preview.name": (["", "encode_lr", "a" * 200, "\u001b[2J"], None),
    "@encode_lr.constants.std": ([[0.0], [1.0] * 3, "x", []], "STAGE_CONSTANT"),
    "@bridge.constants.frames": ([1e12, 2.5, "3"], "STAGE_CONSTANT"),
    "@bridge.constants.height": ([8], "STAGE_SHAPES"),
    "@bridge.constants.strength": ([-1, 1e38], "STAGE_CONSTANT"),
    "@decode.engines.decode_next.carry": ([{}, {"cache_out": "latents"}], None),
    "@decode.engines.decode_next.inputs.0.shape.1": ([3], "STAGE_CHUNKS"),
    "@act.constants.frames": ([1e12, 8], None),
    "@act.constants.stride": ([0, 5], None),
    "@act.constants.offsets": ([[0, 6], [2, 0], [0.5], [1e9]], None),
    "@act.constants.blend": ([[0, 0, 0, 0], [1.0]], None),
    "@act.engines.denoise.inputs.2.shape.1": ([11], "ENGINE_SHAPE"),
    "@act.inputs.plan": (["image", "nothing"], None),
    "@encode_text.inputs.instruction": (["image"], "STAGE_WIRING"),
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, (values, _) in EDITS.items() for value in values])
def test_a_number_out_of_its_range_or_not_as_its_neighbours_is_refused(manifest, path, value):
    put(manifest, path, value)
    error, log_code = refusal(manifest), EDITS[path][1]
    assert log_code in (None, error.log_code)
    assert len(error.line) <= 2000


@pytest.mark.parametrize(
    ("path", "value", "log_code"),
    [
        ("@preview.engines.modulate.outputs.0.shape.1", 7, "STAGE_SHAPES"),
        ("@preview.engines.modulate.outputs.0.dtype", "float16", "STAGE_SHAPES"),
        ("@preview.engines.modulate.inputs.0.name", "clock", "ENGINE_INTERFACE"),
        ("@preview.engines.denoise.inputs.4.name", "mood", "ENGINE_INTERFACE"),
    ],
)
def test_modulations_are_made_as_they_are_taken(make_bundle, path, value, log_code):
    manifest = json.loads(dump(make_bundle("modulated").manifest))
    put(manifest, path, value)
    assert refusal(manifest).log_code == log_code


def test_all_that_does_not_hold_is_told_at_once(manifest):
    put(manifest, "input.fps", 0)
    put(manifest, "action.period_s", -1)
    put(manifest, "@bridge.constants.height", 8)
    put(manifest, "@preview.sampler.train_steps", 1)
    told = str(refusal(manifest))
    assert "4 things do not hold" in told
    assert "stage preview: ddim_v: wanted 2 to 10000 train_steps" in told
    for word in ("input.fps", "action.period_s", "stage refine: its state is float32[1, 3, 4, 4, 6]"):
        assert word in told


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000, "1" * 30])
def test_a_number_that_is_not_finite_or_endless_is_no_json(manifest, number):
    text = json.dumps(manifest).replace('"fps": 10.0', f'"fps": {number}')
    assert refusal(text.encode()).log_code == "MANIFEST_JSON"


def test_a_key_that_is_there_twice_is_refused(manifest):
    text = json.dumps(manifest).replace('"fps": 10.0', '"fps": 10.0, "fps": 10.0')
    assert "'fps' is there twice" in str(refusal(text.encode()))


def test_the_backend_fits_the_engines(manifest):
    put(manifest, "backend", "torch")
    error = refusal(manifest)
    assert (error.exit_code, error.log_code) == (12, "BUNDLE_BACKEND")


def test_guidance_wants_a_condition_of_open_size(manifest):
    """The empty branch is put before the full one: an input of one row has no room for both."""
    inputs = "@preview.engines.denoise.inputs"
    put(manifest, f"{inputs}.3.shape.0", "branches")
    parse(json.dumps(manifest).encode())
    put(manifest, f"{inputs}.2.shape.0", 1)
    assert "wanted text as of open size first or 2, for guidance" in str(refusal(manifest))
    put(manifest, f"{inputs}.2.shape.0", 2)
    put(manifest, "@preview.engines.denoise.outputs.0.shape.0", 2)
    parse(json.dumps(manifest).encode())
    put(manifest, "@preview.sampler.guidance", 1.0)
    assert "of open size first or 1" in str(refusal(manifest))
    put(manifest, f"{inputs}.2.shape.0", 1)
    put(manifest, "@preview.engines.denoise.outputs.0.shape.0", 1)
    parse(json.dumps(manifest).encode())


def test_a_missing_kind_of_stage_is_told(manifest):
    manifest["pipeline"] = [stage for stage in manifest["pipeline"] if stage["kind"] != "act"]
    assert "at least one act stage" in str(refusal(manifest))


def test_large_numbers_cost_nothing_before_they_are_refused(manifest):
    begun = time.perf_counter()
    for path in ("@preview.sampler.train_steps", "@act.constants.frames", "@bridge.constants.frames", "rates.history"):
        changed = json.loads(json.dumps(manifest))
        put(changed, path, 10**17)
        refusal(changed)
    assert time.perf_counter() - begun < 5.0


@pytest.mark.parametrize("many", ["stages", "axes", "keys", "files", "nested"])
def test_a_manifest_of_a_megabyte_is_refused_in_time(manifest, many):
    first = stage(manifest, "preview")
    if many == "stages":
        first["sampler"] |= {"train_steps": 10_000, "steps": 10_000}
        manifest["pipeline"] = [first] * 400
    elif many == "axes":
        put(manifest, "@preview.engines.denoise.inputs.0.shape", [10**17] * 50_000)
    elif many == "files":
        manifest["files"] = {f"{index}.onnx": {"size": -1, "sha256": "0"} for index in range(18_000)}
    text = json.dumps(manifest)
    if many == "keys":
        text = "{" + ", ".join(f'"{index}": 0' for index in range(75_000)) + ', "74999": 0}'
    elif many == "nested":
        text = text.replace('"constants": {}', '"constants": {"x": ' + "[" * 400_000 + "]" * 400_000 + "}", 1)
    assert 500_000 < len(text) < 1 << 20 or many == "stages"
    begun = time.perf_counter()
    error = refusal(text.encode())
    assert time.perf_counter() - begun < 5.0
    assert len(error.line) <= 2000
