"""Weights read tensor by tensor: drawn from a seed, or out of files that are checked as a whole first."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("safetensors", reason="the export extra is not installed")

from safetensors.torch import save_file

from dvgwm.models.adapters import Merged, Update
from dvgwm.models.checkpoints import Seeded, files_of, together
from dvgwm.models.hollow import Slot
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.weights import load_parts, part_files
from dvgwm.runtime.errors import ConfigError

pytestmark = pytest.mark.torch
WANTED = {
    "embed": Slot(("embed", "shared"), (6, 4), torch.float32),
    "norm.weight": Slot(("norm.weight",), (4,), torch.float32),
    "norm.bias": Slot(("norm.bias",), (4,), torch.float32),
    "out.weight": Slot(("out.weight",), (300, 400), torch.bfloat16),
}


def state(**changes):
    tensors = {"shared": torch.randn(6, 4), "norm.weight": torch.ones(4), "norm.bias": torch.zeros(4)}
    tensors["out.weight"] = torch.randn(300, 400).half()
    tensors |= changes
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def test_a_seeds_tensors_are_drawn_each_on_its_own():
    one, again, other = (
        Seeded(1, "p", WANTED),
        Seeded(1, "p", {"out.weight": WANTED["out.weight"]}),
        Seeded(2, "p", WANTED),
    )
    assert torch.equal(one.read("out.weight"), again.read("out.weight"))
    assert not torch.equal(one.read("out.weight"), other.read("out.weight"))
    assert not torch.equal(one.read("out.weight"), Seeded(1, "q", WANTED).read("out.weight"))
    assert one.identity != other.identity
    assert one.read("out.weight").std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert one.read("norm.weight").mean().item() == pytest.approx(1.0, abs=0.1)
    assert abs(one.read("norm.bias").mean().item()) < 0.1
    assert set(one.dtypes.values()) == {torch.float32}


def test_files_are_read_by_the_states_own_names(tmp_path):
    first, second = ("out.weight",), ("shared", "norm.weight", "norm.bias")
    whole = state()
    for index, names in enumerate((first, second), 1):
        save_file({name: whole[name] for name in names}, tmp_path / f"p-{index:05d}-of-00002.safetensors")
    found = files_of("p", part_files(tmp_path, "p"), WANTED)
    assert set(found.dtypes) == set(WANTED)
    assert torch.equal(found.read("embed"), whole["shared"]), "tied under another name"
    assert found.dtypes["out.weight"] == torch.float16
    before = found.identity
    save_file({name: whole[name] + 1 for name in first}, tmp_path / "p-00001-of-00002.safetensors")
    assert found.identity != before


def test_all_that_does_not_fit_is_told_at_once(tmp_path):
    wrong = state(shared=torch.randn(5, 4), extra=torch.ones(1))
    wrong["norm.weight"] = torch.ones(4, dtype=torch.int64)
    del wrong["norm.bias"]
    save_file(wrong, tmp_path / "p.safetensors")
    with pytest.raises(ConfigError) as caught:
        files_of("p", part_files(tmp_path, "p"), WANTED)
    told = str(caught.value)
    assert caught.value.exit_code == 2
    for part in (
        "shared is 5x4 and not 6x4",
        "extra is none",
        "norm.weight is I64",
        "norm.bias is missing",
        "4 things",
    ):
        assert part in told, part


def test_a_tensor_that_is_there_twice_is_refused(tmp_path):
    save_file(state(), tmp_path / "p-00001-of-00002.safetensors")
    save_file({"embed": torch.randn(6, 4)}, tmp_path / "p-00002-of-00002.safetensors")
    with pytest.raises(ConfigError, match="embed is there twice"):
        files_of("p", part_files(tmp_path, "p"), WANTED)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-4], lambda data: data[:6], lambda data: b"\x80\x02" + data, lambda data: b""]
)
def test_a_spoilt_file_is_refused(tmp_path, spoil):
    save_file(state(), tmp_path / "p.safetensors")
    (tmp_path / "p.safetensors").write_bytes(spoil((tmp_path / "p.safetensors").read_bytes()))
    with pytest.raises(ConfigError, match="no safetensors file"):
        files_of("p", part_files(tmp_path, "p"), WANTED)


def test_networks_that_are_held_are_taken_up_from_shards_too(tmp_path):
    size = preset("test_tiny")
    state = {name: tensor.clone() for name, tensor in build(size, 8).policy.state_dict().items()}
    names = sorted(state)
    for index, part in enumerate((names[::2], names[1::2]), 1):
        save_file({name: state[name] for name in part}, tmp_path / f"policy-{index:05d}-of-00002.safetensors")
    networks = build(size, 9)
    assert load_parts(networks, tmp_path) == ("policy",)
    assert all(torch.equal(tensor, state[name]) for name, tensor in networks.policy.state_dict().items())
    (tmp_path / "policy-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigError, match="missing"):
        load_parts(networks, tmp_path)


def test_an_adapter_whose_scales_change_places_is_another(tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    base = Seeded(1, "p", WANTED)

    def merged(embed, out):
        return Merged(base, {"embed": Update(file, "a", "b", embed), "out.weight": Update(file, "a", "b", out)})

    assert merged(1.0, 2.0).identity == merged(1.0, 2.0).identity
    assert merged(1.0, 2.0).identity != merged(2.0, 1.0).identity


def test_what_several_sources_lack_is_told_of_each_however_long():
    def fails(text):
        raise ConfigError("WEIGHTS_SIZE", text)

    assert together({"a": lambda: 1, "b": lambda: 2}) == {"a": 1, "b": 2}
    with pytest.raises(ConfigError, match="only this") as alone:
        together({"a": lambda: 1, "b": lambda: fails("only this")})
    assert alone.value.log_code == "WEIGHTS_SIZE"
    with pytest.raises(ConfigError) as both:
        together({name: lambda name=name: fails(f"{name} begins {'x' * 3000}") for name in ("one", "two", "three")})
    assert all(f"{name} begins" in both.value.line for name in ("one", "two", "three"))
