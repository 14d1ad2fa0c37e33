"""Hundreds of bad checkpoints, adapters and tokenizers: each refused with exit code 2 in one line, nothing run, little read."""

import json
import os
import pickle
import random
import shutil
import struct
import tracemalloc
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")
peft = pytest.importorskip("peft", reason="the export extra is not installed")

from safetensors.torch import load_file, save_file

from dvgwm.export.lab import folders, read_base
from dvgwm.export.tokenizer import of_bytes, read_tokenizer
from dvgwm.models.adapters import updates_of
from dvgwm.models.hollow import slots
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.sizes import T5_XXL
from dvgwm.runtime.errors import ConfigError

pytestmark = [pytest.mark.torch, pytest.mark.slow]
TINY = preset("test_tiny")
WHOLE = build(TINY, 0, "meta")
WHOLE.codec.register_to_config(scaling_factor=0.7)
WANTED = {part: slots(network) for part, network in WHOLE.parts().items()}
VAE = Path("vae/diffusion_pytorch_model.safetensors")
INDEX = Path("transformer/diffusion_pytorch_model.safetensors.index.json")
RAN = "ran"


class Bomb:
    """What a pickle would run."""

    def __reduce__(self):
        return (exec, ("import os; open(os.environ['DVGWM_TEST_RAN'], 'w').close()",))


def rewritten(path, change):
    """Give a file other bytes."""
    path.write_bytes(change(path.read_bytes()))


def headed(change):
    """Return what changes a safetensors file's header, a dict, and keeps its data."""

    def apply(data):
        length = int.from_bytes(data[:8], "little")
        header = change(json.loads(data[8 : 8 + length]))
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return apply


def entry(name_index, **changes):
    """Return what changes one tensor's entry in a header."""

    def change(header):
        names = [name for name in header if name != "__metadata__"]
        header[names[name_index % len(names)]] |= changes
        return header

    return headed(change)


def spoilt_files():
    """Yield (name, what makes other bytes of a safetensors file)."""
    for percent in (0, 1, 5, 20, 50, 80, 95, 99):
        yield f"truncated to {percent}%", lambda data, percent=percent: data[: len(data) * percent // 100]
    for cut in (1, 4, 8):
        yield f"{cut} bytes short", lambda data, cut=cut: data[:-cut]
    for length in (0, 1, 7, 2**20, 2**31, 2**40, 2**62, 2**64 - 1):
        yield f"header of {length}", lambda data, length=length: struct.pack("<Q", length) + data[8:]
    yield "more than its header says", lambda data: data + b"\0" * 16
    magics = {
        "pickle": pickle.dumps(Bomb(), 2),
        "pickle 5": pickle.dumps(Bomb(), 5),
        "zip": b"PK\x03\x04",
        "ELF": b"\x7fELF",
    }
    for name, magic in (
        magics | {"numpy": b"\x93NUMPY", "gzip": b"\x1f\x8b", "text": b"version https://git-lfs"}
    ).items():
        yield f"{name} in its place", lambda data, magic=magic: magic
        yield f"{name} before it", lambda data, magic=magic: magic + data
    for text in (b"", b"{", b"[]", b"null", b"7", b"[" * 100_000, b'{"a":' * 5_000, b"\xff\xfe", b'{"a": {}}'):
        yield f"a header of {text[:8]!r}", headed(lambda _, text=text: text)
    for index in (0, 7, 30):
        for offsets in ([0, 0], [0, 2**40], [-4, 4], [8, 4], [0], [0.5, 9], ["0", "4"], None):
            yield f"entry {index} at {offsets}", entry(index, data_offsets=offsets)
        for shape in ([1], [2**40, 2**40], [-1, 4], [0], "4", [1.5], [[4]]):
            yield f"entry {index} of shape {shape}", entry(index, shape=shape)
        for dtype in ("F128", "I64", "F8_E4M3", "BOOL", "f32", "", 7, None):
            yield f"entry {index} of {dtype}", entry(index, dtype=dtype)


def spoilt_states():
    """Yield (name, what makes another state of the VAE's): whole files that are another network's."""
    picked = random.Random(5)
    names = sorted(WANTED["codec"])
    for name in picked.sample(names, 8):
        yield f"without {name}", lambda state, name=name: {key: value for key, value in state.items() if key != name}
        yield (
            f"{name} renamed",
            lambda state, name=name: {f"{key}_" if key == name else key: state[key] for key in state},
        )
        yield f"{name} longer", lambda state, name=name: state | {name: torch.cat([state[name]] * 2)}
        yield f"{name} as int8", lambda state, name=name: state | {name: state[name].to(torch.int8)}
        yield f"{name} as float8", lambda state, name=name: state | {name: state[name].to(torch.float8_e4m3fn)}
    yield "one too many", lambda state: state | {"decoder.extra.weight": torch.zeros(1)}
    yield "all under a module", lambda state: {f"module.{key}": value for key, value in state.items()}
    yield "nothing", lambda state: {"nothing": torch.zeros(1)}


def spoilt_indexes():
    """Yield (name, text of an index of shards)."""
    away = (
        "../vae/diffusion_pytorch_model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        ".",
        "",
        "x.bin",
        "~",
        "a\0b",
    )
    for name in (
        *away,
        "not there.safetensors",
        "transformer\\x.safetensors/..",
        "C:\\x",
        "file:///etc/passwd",
        "x.safetensors/",
    ):
        yield f"index names {name!r}", json.dumps({"weight_map": {"a": name}})
    for value in (7, None, [], ["a"], {"b": "c"}, True):
        yield f"index names {value!r}", json.dumps({"weight_map": {"a": value}})
    for text in ("", "{", "[]", "null", "[" * 100_000, '{"weight_map"', " " * (5 << 20)):
        yield f"index is {text[:8]!r}", text


def spoilt_settings():
    """Yield (name, the file, its changes): one setting after another that makes it another system."""
    others = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value * 2 + 1}
    for folder in folders(WHOLE):
        for key, value in folder.settings.items():
            wrong = others.get(type(value), lambda value: "another")(value)
            yield f"{folder.name}: {key} is {wrong!r}", Path(folder.name) / "config.json", {key: wrong}
    for key, value in (("prediction_type", "epsilon"), ("beta_schedule", "linear"), ("num_train_timesteps", 500)):
        yield f"scheduler: {key} is {value}", Path("scheduler/scheduler_config.json"), {key: value}


@pytest.fixture(scope="module")
def plain_lora(tmp_path_factory):
    """An adapter that fits."""
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("plain")
    peft.get_peft_model(build(TINY, 0).preview, config).save_pretrained(folder)
    return folder


def spoilt_settings_of_a_lora():
    """Yield changes of an adapter's settings that make it more than a plain one, or none."""
    for value in (0, -1, 5, 2**31, 4.0, "4", None, True, [4], {}):
        yield {"r": value}
    for value in (0, -1.0, float("nan"), float("inf"), "4", None, [1], {}):
        yield {"lora_alpha": value}
    for value in ("DORA", "", None, 7, ["LORA"]):
        yield {"peft_type": value}
    for name in ("use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"):
        yield {name: True}
    for name in ("modules_to_save", "layer_replication", "megatron_config", "target_parameters"):
        yield {name: ["proj_out"]}
    for value in ("pissa", "olora", "corda", "loftq", "lora_ga", 7, ["gaussian"]):
        yield {"init_lora_weights": value}
    for value in ([1], "x", {"to_q": 0}, {"to_q": "4"}, {"(a+)+$": 4}, {"to_q": 3}, {"to_q": None}):
        yield {"rank_pattern": value}


FILES, STATES, INDEXES, SETTINGS = (
    list(made()) for made in (spoilt_files, spoilt_states, spoilt_indexes, spoilt_settings)
)
LORAS = list(spoilt_settings_of_a_lora())


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    """Whatever a pickle would run leaves a file."""
    monkeypatch.setenv("DVGWM_TEST_RAN", str(tmp_path / RAN))
    yield
    assert not (tmp_path / RAN).exists()


def refused(call):
    """Call it, and see that it is refused as it has to be; a few megabytes are all that it takes."""
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError) as caught:
            call()
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 5000


def test_there_are_enough_of_them():
    assert len(FILES) + len(STATES) + len(INDEXES) + len(SETTINGS) + len(LORAS) >= 250


def read(base):
    return read_base(base, TINY, WHOLE, WANTED)


def test_the_pipeline_itself_is_taken(saved_lab):
    assert set(read(saved_lab.base)) == {"preview", "codec", "text"}


@pytest.mark.parametrize("spoil", [spoil for _, spoil in FILES], ids=[name for name, _ in FILES])
def test_a_spoilt_file(lab, spoil):
    rewritten(lab.base / VAE, spoil)
    refused(lambda: read(lab.base))


@pytest.mark.parametrize("spoil", [spoil for _, spoil in STATES], ids=[name for name, _ in STATES])
def test_another_networks_state(lab, spoil):
    state = spoil(load_file(lab.base / VAE))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, lab.base / VAE)
    refused(lambda: read(lab.base))


@pytest.mark.parametrize("text", [text for _, text in INDEXES], ids=[name for name, _ in INDEXES])
def test_a_spoilt_index(lab, text):
    (lab.base / INDEX).write_text(text)
    refused(lambda: read(lab.base))


@pytest.mark.parametrize(("file", "changes"), [case[1:] for case in SETTINGS], ids=[case[0] for case in SETTINGS])
def test_another_systems_settings(lab, file, changes):
    path = lab.base / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(lambda: read(lab.base))


@pytest.mark.parametrize("changes", LORAS, ids=map(str, LORAS))
def test_a_lora_that_is_no_plain_one(plain_lora, tmp_path, changes):
    folder = Path(shutil.copytree(plain_lora, tmp_path / "lora"))
    assert updates_of(folder, WANTED["preview"])
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(lambda: updates_of(folder, WANTED["preview"]))


@pytest.mark.parametrize("spoil", [spoil for _, spoil in FILES[:30]], ids=[name for name, _ in FILES[:30]])
def test_a_lora_in_a_spoilt_file(plain_lora, tmp_path, spoil):
    folder = Path(shutil.copytree(plain_lora, tmp_path / "lora"))
    rewritten(folder / "adapter_model.safetensors", spoil)
    refused(lambda: updates_of(folder, WANTED["preview"]))


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 90, 99])
def test_a_spoilt_tokenizer(tmp_path, percent):
    data = of_bytes()
    for name in ("tokenizer.json", "spiece.model"):
        (tmp_path / name).write_bytes(data[: len(data) * percent // 100])
        refused(lambda: read_tokenizer(tmp_path, T5_XXL))
        (tmp_path / name).unlink()


def test_links_pipes_and_folders_in_the_place_of_files(lab):
    weights = lab.base / VAE
    weights.unlink()
    for put in (weights.mkdir, lambda: os.mkfifo(weights), lambda: weights.symlink_to(weights)):
        put()
        refused(lambda: read(lab.base))
        weights.rmdir() if weights.is_dir() else weights.unlink()
