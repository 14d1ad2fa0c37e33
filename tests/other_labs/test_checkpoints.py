"""Checkpoints and adapters as other labs write them: every trainer's form is taken or named, and what is spoilt is refused."""

import json
import struct
import sys

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("safetensors", reason="the export extra is not installed")

from safetensors.torch import save_file

from dvgwm.models.adapters import Merged, updates_of
from dvgwm.models.checkpoints import Seeded, files_of
from dvgwm.models.hollow import Slot
from dvgwm.models.tensors import header
from dvgwm.models.weights import load_weights, part_files
from dvgwm.runtime.errors import ConfigError

pytestmark = pytest.mark.torch
MODULES = (
    "transformer_blocks.0.attn1.to_q",
    "transformer_blocks.0.attn1.to_out.0",
    "transformer_blocks.1.ff.net.0.proj",
)
WANTED = {f"{module}.weight": Slot((f"{module}.weight",), (8, 6), torch.float32) for module in MODULES}
RANK, ALPHA = 2, 3.0


def halves(module):
    torch.manual_seed(MODULES.index(module))
    return torch.randn(RANK, 6), torch.randn(8, RANK)


def lora(down, up, alpha=None, dtype=torch.float32, modules=MODULES):
    """An adapter's tensors: ``down`` and ``up`` are what a module's two halves are called."""
    state = {}
    for module in modules:
        low, high = halves(module)
        names = {"module": module, "flat": module.replace(".", "_")}
        if "processor" in down:
            names["module"], names["layer"] = module.rsplit(".", 1)
        state[down.format(**names)], state[up.format(**names)] = low.to(dtype), high.to(dtype)
        if alpha:
            state[alpha.format(**names)] = torch.tensor(ALPHA)
    return state


TAKEN = {
    "peft": ("base_model.model.{module}.lora_A.weight", "base_model.model.{module}.lora_B.weight"),
    "peft with its adapter's name": ("{module}.lora_A.default.weight", "{module}.lora_B.default.weight"),
    "peft within a pipeline": (
        "base_model.model.transformer.{module}.lora_A.style.weight",
        "base_model.model.transformer.{module}.lora_B.style.weight",
    ),
    "diffusers": ("transformer.{module}.lora_A.weight", "transformer.{module}.lora_B.weight"),
    "diffusers, older": ("transformer.{module}.lora.down.weight", "transformer.{module}.lora.up.weight"),
    "finetrainers": ("module.{module}.lora_A.weight", "module.{module}.lora_B.weight"),
    "kohya": (
        "lora_transformer_{flat}.lora_down.weight",
        "lora_transformer_{flat}.lora_up.weight",
        "lora_transformer_{flat}.alpha",
    ),
    "VideoX-Fun": ("lora_unet_{flat}.lora_down.weight", "lora_unet_{flat}.lora_up.weight", "lora_unet_{flat}.alpha"),
    "VideoX-Fun, newer": (
        "lora_unet__{flat}.lora_down.weight",
        "lora_unet__{flat}.lora_up.weight",
        "lora_unet__{flat}.alpha",
    ),
    "ComfyUI": ("diffusion_model.{module}.lora_A.weight", "diffusion_model.{module}.lora_B.weight"),
    "ComfyUI from kohya": (
        "diffusion_model.{module}.lora_down.weight",
        "diffusion_model.{module}.lora_up.weight",
        "diffusion_model.{module}.alpha",
    ),
}


@pytest.mark.few(8)
@pytest.mark.parametrize("form", TAKEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_trainers_form_is_the_same_update(tmp_path, form, dtype):
    names = TAKEN[form]
    save_file(lora(*names, dtype=dtype), tmp_path / "lora.safetensors")
    found = updates_of(tmp_path / "lora.safetensors", WANTED)
    assert set(found) == set(WANTED)
    scale = ALPHA / RANK if len(names) == 3 else 1.0
    for module in MODULES:
        low, high = (half.to(dtype).float() for half in halves(module))
        assert torch.allclose(found[f"{module}.weight"].delta(), scale * high @ low, atol=1e-5)


def test_attention_processors_of_the_first_diffusers_are_read_too(tmp_path):
    module = MODULES[0]
    low, high = halves(module)
    stem = "unet.transformer_blocks.0.attn1.processor.to_q_lora".removeprefix("unet.")
    save_file({f"{stem}.down.weight": low, f"{stem}.up.weight": high}, tmp_path / "lora.safetensors")
    found = updates_of(tmp_path / "lora.safetensors", WANTED)
    assert torch.allclose(found[f"{module}.weight"].delta(), high @ low, atol=1e-6)


NAN, INF = float("nan"), float("inf")
Q = f"{MODULES[0]}"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"


def plain(**changes):
    state = lora("{module}.lora_A.weight", "{module}.lora_B.weight")
    state |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def spoilt(value):
    tensor = halves(Q)[0].clone()
    tensor[1, 2] = value
    return {A: tensor}


REFUSED = {
    "not a number": (plain() | spoilt(NAN), f"{A} is not finite"),
    "infinite": (plain() | spoilt(INF), f"{A} is not finite"),
    "infinite in half precision": (
        {name: tensor.half() for name, tensor in (plain() | spoilt(1e30)).items()},
        f"{A} is not finite",
    ),
    "eight bits": (plain() | {A: halves(Q)[0].to(torch.int8)}, f"{A} is I8 and not of F64, F32, F16, BF16"),
    "eight floating bits": (plain() | {A: halves(Q)[0].to(torch.float8_e4m3fn)}, f"{A} is F8_E4M3 and not of"),
    "truth values": (plain() | {A: halves(Q)[0] > 0}, f"{A} is BOOL and not of"),
    "two spellings": (
        plain() | {f"transformer.{A}": halves(Q)[0] + 1, f"transformer.{B}": halves(Q)[1]},
        f"are both for {Q}.weight",
    ),
    "two forms": (
        plain() | lora(*TAKEN["VideoX-Fun"], modules=MODULES[:1]),
        f"are both for {Q}.weight",
    ),
    "two adapters": (
        {
            **lora("{module}.lora_A.one.weight", "{module}.lora_B.one.weight", modules=MODULES[:1]),
            **lora("{module}.lora_A.two.weight", "{module}.lora_B.two.weight", modules=MODULES[1:]),
        },
        "it holds 2 adapters, one, two; save one alone",
    ),
    "LoKr": (plain() | {f"{Q}.lokr_w1": torch.ones(2)}, "belongs to no weight (LoKr)"),
    "LoHa": (plain() | {f"{Q}.hada_w1_a": torch.ones(2)}, "belongs to no weight (LoHa)"),
    "DoRA": (plain() | {f"{Q}.dora_scale": torch.ones(2)}, "belongs to no weight (DoRA)"),
    "DoRA of peft": (plain() | {f"{Q}.lora_magnitude_vector.weight": torch.ones(2)}, "belongs to no weight (DoRA)"),
    "OFT": (plain() | {f"{Q}.oft_blocks": torch.ones(2)}, "belongs to no weight (OFT)"),
    "whole differences": (
        plain() | {f"diffusion_model.{Q}.diff": torch.ones(2)},
        "(ComfyUI's differences of whole weights)",
    ),
    "biases": (plain() | {f"{Q}.lora_B.bias": torch.ones(8)}, "belongs to no weight (LoRA with biases)"),
    "the original model": (
        {
            "diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 6),
            "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.ones(8, 2),
        },
        "(ComfyUI's names, of the original model): the network has no blocks.0.self_attn.q.weight",
    ),
    "another model flattened": (
        {
            "lora_unet_blocks_0_q.lora_down.weight": torch.ones(2, 6),
            "lora_unet_blocks_0_q.lora_up.weight": torch.ones(8, 2),
        },
        "(kohya's or VideoX-Fun's names): the network has no lora_unet_blocks_0_q.weight",
    ),
    "a text encoder": (
        plain()
        | {
            "lora_te_layers_0_q.lora_down.weight": torch.ones(2, 6),
            "lora_te_layers_0_q.lora_up.weight": torch.ones(8, 2),
        },
        "(kohya's names of a text encoder): the network has no lora_te_layers_0_q.weight",
    ),
    "no rank": (plain() | {A: torch.ones(0, 6), B: torch.ones(8, 0)}, "rank 0"),
    "an alpha of nothing": (plain() | {f"{Q}.alpha": torch.tensor(NAN)}, "alpha is nan"),
    "nothing": ({"note": torch.ones(1)}, "note belongs to no weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sound_lora_is_refused_by_name(tmp_path, case):
    state, message = REFUSED[case]
    save_file(state, tmp_path / "lora.safetensors")
    with pytest.raises(ConfigError) as caught:
        updates_of(tmp_path / "lora.safetensors", WANTED)
    assert message in str(caught.value)
    assert caught.value.line.startswith("E2 LORA_BASE ")


def weights(**changes):
    state = {name: torch.ones(8, 6) for name in WANTED}
    return state | changes


NAME = f"{MODULES[0]}.weight"


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_weights_that_are_no_numbers_are_refused_by_name_where_they_are_read(tmp_path, value):
    state = weights()
    state[NAME][3, 4] = value
    save_file(state, tmp_path / "p.safetensors")
    found = files_of("p", [tmp_path / "p.safetensors"], WANTED)
    with pytest.raises(ConfigError, match=rf"p\.safetensors: {NAME} has 1 numbers that are not finite") as caught:
        found.read(NAME)
    assert caught.value.log_code == "WEIGHTS_VALUES"
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2)})
    save_file({"a.weight": torch.full((2, 2), value), "a.bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=r"a\.weight has 4 numbers"):
        load_weights(module, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_weights_in_eight_bits_are_not_taken_for_floats(tmp_path, dtype):
    save_file(weights(**{NAME: torch.ones(8, 6).to(dtype)}), tmp_path / "p.safetensors")
    with pytest.raises(ConfigError, match=f"{NAME} is .* and not of F64, F32, F16, BF16"):
        files_of("p", [tmp_path / "p.safetensors"], WANTED)
    save_file({"weight": torch.ones(2, 2).to(dtype), "bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=r"a\.safetensors: weight is .* and not of F64"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "a.safetensors")


def test_one_weight_under_two_names_is_taken_where_both_are_the_same(tmp_path):
    tied = {"embed": Slot(("embed", "shared"), (4, 3), torch.float32)}
    same = torch.randn(4, 3)
    save_file({"embed": same, "shared": same.clone()}, tmp_path / "p.safetensors")
    assert torch.equal(files_of("p", [tmp_path / "p.safetensors"], tied).read("embed"), same)
    save_file({"embed": same, "shared": same + 1}, tmp_path / "p.safetensors")
    with pytest.raises(ConfigError, match=r"is there twice: \w+ in p\.safetensors is another"):
        files_of("p", [tmp_path / "p.safetensors"], tied)
    save_file({"embed": same, "model.embed": same + 1}, tmp_path / "p.safetensors")
    with pytest.raises(ConfigError, match="is there twice"):
        files_of("p", [tmp_path / "p.safetensors"], tied, prefix="model.")


def test_shards_that_differ_are_two_checkpoints(tmp_path):
    half = {NAME: torch.ones(8, 6)}
    save_file(half, tmp_path / "p-00001-of-00002.safetensors")
    save_file(weights(), tmp_path / "p-00002-of-00002.safetensors")
    with pytest.raises(ConfigError, match="is there twice"):
        files_of("p", part_files(tmp_path, "p"), WANTED)
    with pytest.raises(ConfigError, match="is there twice, also in another shard"):
        load_weights(torch.nn.Linear(2, 2), *part_files(tmp_path, "p"))
    save_file(half, tmp_path / "p-00001-of-00003.safetensors")
    with pytest.raises(ConfigError, match="has p more than once: shards of 00002, shards of 00003"):
        part_files(tmp_path, "p")
    (tmp_path / "p-00001-of-00003.safetensors").unlink()
    save_file(half, tmp_path / "p.safetensors")
    with pytest.raises(ConfigError, match=r"has p more than once: p\.safetensors, shards of 00002"):
        part_files(tmp_path, "p")


def test_a_merge_that_overflows_is_refused_by_name(tmp_path):
    state = plain() | {A: torch.full((RANK, 6), 3e38), B: torch.full((8, RANK), 3e38)}
    save_file(state, tmp_path / "lora.safetensors")
    merged = Merged(Seeded(0, "p", WANTED), updates_of(tmp_path / "lora.safetensors", WANTED))
    assert torch.isfinite(merged.read(f"{MODULES[1]}.weight")).all()
    with pytest.raises(ConfigError, match=f"{NAME} has .* not finite"):
        merged.read(NAME)


@pytest.mark.thorough
def test_a_header_of_a_million_names_is_not_gone_through(tmp_path):
    count = 1_000_000
    entries = (f'"t{n}":{{"dtype":"F32","shape":[1],"data_offsets":[{4 * n},{4 * n + 4}]}}' for n in range(count))
    data = f"{{{','.join(entries)}}}".encode()
    path = tmp_path / "p.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        file.truncate(8 + len(data) + 4 * count)
    calls = 0

    def count_call(*_):
        nonlocal calls
        calls += 1

    sys.setprofile(count_call)
    try:
        with pytest.raises(ConfigError, match="wanted at most 100000 tensors, got 1000000"):
            updates_of(path, WANTED)
    finally:
        sys.setprofile(None)
    assert calls < 10_000, "no name is looked at on its own"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no safetensors",
        struct.pack("<Q", 1 << 60),
        struct.pack("<Q", 8) + b"[" * 8,
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 2) + b"{}" + b"more",
        struct.pack("<Q", 64)
        + json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).ljust(64).encode(),
        b"\x80\x04\x95pickle",
        b"PK\x03\x04torch.save",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, data):
    path = tmp_path / "p.safetensors"
    path.write_bytes(data)
    for read in (header, lambda path: updates_of(path, WANTED), lambda path: load_weights(torch.nn.Linear(2, 2), path)):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert caught.value.line.startswith("E2 WEIGHTS_FILE ")
