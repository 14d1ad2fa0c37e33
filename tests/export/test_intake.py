"""What a lab gives: pipelines as diffusers writes them, adapters as peft and diffusers do, and all that may be wrong."""

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")
peft = pytest.importorskip("peft", reason="the export extra is not installed")

from diffusers import UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

from dvgwm.export.intake import intake
from dvgwm.export.order import Order
from dvgwm.models.adapters import updates_of
from dvgwm.models.hollow import slots
from dvgwm.models.networks import build
from dvgwm.models.presets import preset
from dvgwm.models.weights import once, save_tensors
from dvgwm.runtime.errors import ConfigError

pytestmark = pytest.mark.torch
TINY = preset("test_tiny")
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear"]


def order(tmp_path, **given):
    return Order("test_tiny", "onnx", tmp_path / "out", 0, ("export",), **given)


def taken(tmp_path, **given):
    """The intake of an order, shortened as it says."""
    asked = order(tmp_path, **given)
    return intake(asked, TINY.shortened(asked.layers, asked.frames))


def refused(tmp_path, log_code, **given):
    """What an intake is refused with: exit code 2, one line."""
    with pytest.raises(ConfigError) as caught:
        taken(tmp_path, **given)
    assert (caught.value.exit_code, caught.value.log_code) == (2, log_code), str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def adapted(seed=5, rank=4, alpha=6.0, dtype=torch.float32, **more):
    """A transformer with a peft adapter of random numbers."""
    network = build(TINY, 21).preview.to(dtype)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS, init_lora_weights=False, **more)
    torch.manual_seed(seed)
    return peft.get_peft_model(network, config)


def merged_state(network):
    """The weights after peft's own merge, by the transformer's names."""
    return network.merge_and_unload().state_dict()


def edit(path, **changes):
    """Change a file of settings."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_diffusers_pipeline_is_taken_up_tensor_by_tensor(lab, tmp_path):
    made = taken(tmp_path, base=lab.base)
    sources = made.stored.sources
    for part in ("preview", "codec", "text"):
        state = getattr(lab.networks, part).state_dict()
        assert set(sources[part].dtypes) <= set(state)
        assert all(torch.equal(sources[part].read(name), state[name]) for name in sources[part].dtypes), part
    assert len(list((lab.base / "transformer").glob("*.safetensors"))) > 1, "shards"
    assert made.told.startswith("trained preview, codec, text; refiner, frame_encoder, policy from seeded random")
    assert not made.trained
    state = lab.networks.preview.state_dict()
    short = taken(tmp_path, base=lab.base, layers=1)
    names = slots(short.stored.networks.preview)
    assert not any("blocks.1." in name for name in names)
    assert all(torch.equal(short.stored.sources["preview"].read(name), state[name]) for name in names)
    assert "alone mean nothing" in short.told


def test_learned_positions_are_left_out_knowingly(lab, tmp_path):
    file = sorted((lab.base / "transformer").glob("*.safetensors"))[0]
    save_file(load_file(file) | {"patch_embed.pos_embedding": torch.zeros(1, 4, 64)}, file)
    assert taken(tmp_path, base=lab.base).stored.sources["preview"].dtypes
    save_file(load_file(file) | {"patch_embed.other": torch.zeros(1, 4, 64)}, file)
    assert "patch_embed.other is none of its tensors" in refused(tmp_path, "WEIGHTS_SIZE", base=lab.base)


def test_what_does_not_fit_is_told_of_every_part_at_once(lab, tmp_path):
    for folder in ("transformer", "vae"):
        file = sorted((lab.base / folder).glob("*.safetensors"))[0]
        save_file(load_file(file) | {f"odd_{folder}": torch.zeros(1)}, file)
    save_file({"blocks.0.lora_A.weight": torch.zeros(1, 4)}, tmp_path / "lora.safetensors")
    told = refused(tmp_path, "INTAKE", base=lab.base, lora=tmp_path / "lora.safetensors")
    for wrong in ("odd_transformer is none", "odd_vae is none", "blocks.0.lora_A.weight has no blocks.0.lora_B.weight"):
        assert wrong in told
    assert len(told) <= 2000


def test_our_own_parts_go_before_the_bases(lab, tmp_path):
    (tmp_path / "ours").mkdir()
    parts = build(TINY, 30).parts()
    states = {part: once(parts[part].state_dict()) for part in ("refiner", "codec")}  # a base has a codec, too
    for part, state in states.items():
        save_tensors(state, tmp_path / "ours" / f"{part}.safetensors")
    sources = taken(tmp_path, base=lab.base, weights=tmp_path / "ours").stored.sources
    for part, state in states.items():
        assert all(torch.equal(sources[part].read(name), tensor) for name, tensor in state.items()), part
    assert torch.equal(sources["preview"].read("proj_out.bias"), lab.networks.preview.state_dict()["proj_out.bias"])


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"transformer_blocks.0.attn1.to_k": 9.0}},
        {"use_rslora": True},
    ],
)
def test_a_peft_adapter_is_merged_as_peft_merges_it(lab, tmp_path, more):
    base = tmp_path / "base32"
    network = adapted(**more)
    network.save_pretrained(tmp_path / "lora")
    build(TINY, 21).preview.save_pretrained(lab.base / "transformer", max_shard_size="10GB")
    for shard in (lab.base / "transformer").glob("*-of-*"):
        shard.unlink()
    (lab.base / "transformer" / "diffusion_pytorch_model.safetensors.index.json").unlink()
    source = taken(tmp_path, base=lab.base, lora=tmp_path / "lora").stored.sources["preview"]
    wanted = merged_state(network)
    plain = build(TINY, 21).preview.state_dict()
    assert all(torch.equal(source.read(name), wanted[name]) for name in wanted)
    changed = [name for name in wanted if not torch.equal(wanted[name], plain[name])]
    assert len(changed) == 2 * len(TARGETS)
    assert not base.exists()


def test_a_merge_into_half_precision_is_rounded_once(lab, tmp_path):
    """peft rounds the update and then the sum; the sum of the two in float32 is nearer to the truth."""
    network = adapted(dtype=torch.bfloat16)
    network.save_pretrained(tmp_path / "lora")
    source = taken(tmp_path, base=lab.base, lora=tmp_path / "lora").stored.sources["preview"]
    name = "transformer_blocks.0.attn1.to_q.weight"
    assert source.dtypes[name] == torch.float32
    update = updates_of(tmp_path / "lora", slots(build(TINY, 0, "meta").preview))[name]
    base, theirs = lab.networks.preview.state_dict()[name], merged_state(network)[name]
    halves = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    up, down = (
        next(t for k, t in halves.items() if name[:-7] in k and half in k).double() for half in ("lora_B", "lora_A")
    )
    truth = base.double() + up @ down * 1.5
    ours = source.read(name).bfloat16().double()
    assert torch.equal(ours, truth.bfloat16().double())
    assert (ours - truth).abs().max() <= (theirs.double() - truth).abs().max()
    assert update.scale == 1.5


@pytest.mark.parametrize("form", ["prefix", "metadata", "alpha", "old names"])
def test_a_diffusers_adapter_is_merged_with_the_scale_that_it_says(lab, tmp_path, form):
    network = build(TINY, 21).preview
    network.add_adapter(peft.LoraConfig(r=4, lora_alpha=6.0, target_modules=TARGETS, init_lora_weights=False))
    network.save_lora_adapter(tmp_path / "lora")
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    state = {f"transformer.{name.removeprefix('transformer.')}": tensor for name, tensor in load_file(file).items()}
    scale, given = 1.5, {}
    if form == "prefix":  # as older scripts wrote it: nothing says the alpha
        save_file(state, file)
        scale = 1.0
    if form == "alpha":
        modules = {name.rsplit(".lora_", 1)[0] for name in state}
        save_file(state | {f"{module}.alpha": torch.tensor(6.0) for module in modules}, file)
    if form == "old names":
        names = {".lora_A.": ".lora.down.", ".lora_B.": ".lora.up."}
        for new, old in names.items():
            state = {name.replace(new, old): tensor for name, tensor in state.items()}
        save_file(state, file)
        given = {"lora_alpha": 6.0}
    source = taken(tmp_path, base=lab.base, lora=file if form == "alpha" else file.parent, **given).stored.sources[
        "preview"
    ]
    name = "transformer_blocks.1.ff.net.2.weight"
    base = lab.networks.preview.state_dict()[name].float()
    layer = network.transformer_blocks[1].ff.net[2]
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.allclose(source.read(name) - base, delta * scale, atol=1e-6)
    assert delta.abs().max() > 1e-2


def lora(tmp_path, **changes):
    adapted().save_pretrained(tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    return file, {**load_file(file), **changes}


def test_an_adapter_of_another_base_tells_all_that_does_not_fit(lab, tmp_path):
    wide = build(replace(TINY, preview=replace(TINY.preview, heads=2, layers=3)), 0).preview
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["to_q"], init_lora_weights=False)
    peft.get_peft_model(wide, config).save_pretrained(tmp_path / "lora")
    told = refused(tmp_path, "LORA_BASE", base=lab.base, lora=tmp_path / "lora")
    assert "3 things" in told
    assert "the network has no transformer_blocks.2.attn1.to_q.weight" in told
    assert "it is for 128x128, transformer_blocks.0.attn1.to_q.weight is 64x64" in told


def test_an_adapter_needs_the_base_that_it_is_for(lab, tmp_path):
    file, _ = lora(tmp_path)
    assert "--base" in refused(tmp_path, "LORA_BASE", lora=file)
    refused(tmp_path, "LORA_FILE", base=lab.base, lora=tmp_path / "nowhere")


FIRST = "base_model.model.transformer_blocks.0.attn1.to_q"


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({f"{FIRST}.lora_A.weight": torch.zeros(3, 64)}, "rank 3, but 4"),
        ({f"{FIRST}.lora_B.weight": None}, "has no"),
        ({f"{FIRST}.lora_A.weight": None}, "belongs to no weight"),
        ({"text_encoder.lora_A.weight": torch.zeros(4, 4)}, "has no text_encoder.lora_B.weight"),
        ({f"{FIRST}.lora_magnitude_vector": torch.zeros(64)}, "belongs to no weight"),
        ({f"{FIRST}.lora_A.weight": torch.zeros(4, 64, dtype=torch.int8)}, "is I8"),
        ({f"{FIRST}.lora_A.weight": torch.zeros(4, 64, 1, 1)}, "4 dimensions"),
        ({f"{FIRST}.alpha": torch.tensor([1.0, 2.0])}, "is no number"),
        ({f"{FIRST}.alpha": torch.tensor(float("nan"))}, "alpha is nan"),
        (
            {f"{FIRST}.lora_A.weight": torch.zeros(2, 64), f"{FIRST}.lora_B.weight": torch.zeros(64, 2)},
            "settings say 4",
        ),
    ],
)
def test_an_adapter_that_is_not_consumed_whole_is_refused(lab, tmp_path, changes, told):
    file, state = lora(tmp_path, **changes)
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, file)
    assert told in refused(tmp_path, "LORA_BASE", base=lab.base, lora=file.parent)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["proj_out"]},
        {"fan_in_fan_out": True},
        {"init_lora_weights": "pissa"},
        {"r": 0},
        {"r": "4"},
        {"lora_alpha": None},
        {"lora_alpha": float("inf")},
        {"rank_pattern": [1]},
        {"alpha_pattern": {"(a+)+": 2}},
        {"peft_type": "IA3"},
    ],
)
def test_an_adapter_that_is_more_than_a_plain_one_is_refused(lab, tmp_path, changes):
    file, _ = lora(tmp_path)
    edit(file.with_name("adapter_config.json"), **changes)
    refused(tmp_path, "LORA_SETTINGS", base=lab.base, lora=file.parent)


@pytest.mark.parametrize(
    ("folder", "changes", "told"),
    [
        ("transformer", {"num_layers": 3}, "transformer: num_layers is 3 and not 2"),
        ("transformer", {"num_attention_heads": 2, "attention_head_dim": 32}, "num_attention_heads is 2 and not 1"),
        ("transformer", {"patch_size_t": 2}, "patch_size_t is 2 and not null"),
        ("vae", {"scaling_factor": 1.15258426}, "scaling_factor is 1.15258426 and not 0.7"),
        ("vae", {"latent_channels": 16}, "latent_channels is 16 and not 4"),
        ("text_encoder", {"feed_forward_proj": "relu"}, "feed_forward_proj"),
        ("scheduler", {"prediction_type": "epsilon"}, "prediction_type"),
        ("scheduler", {"snr_shift_scale": 3.0}, "snr_shift_scale is 3.0 and not 1.0"),
    ],
)
def test_another_systems_settings_are_refused(lab, tmp_path, folder, changes, told):
    name = "scheduler_config.json" if folder == "scheduler" else "config.json"
    edit(lab.base / folder / name, **changes)
    assert told in refused(tmp_path, "BASE_SETTINGS", base=lab.base)


def test_all_settings_that_differ_are_told_at_once(lab, tmp_path):
    edit(lab.base / "transformer" / "config.json", num_layers=3, time_embed_dim=512)
    edit(lab.base / "vae" / "config.json", layers_per_block=3)
    assert "3 things" in refused(tmp_path, "BASE_SETTINGS", base=lab.base)


def test_a_folder_that_is_not_there_is_named(lab, tmp_path):
    (lab.base / "vae").rename(lab.base / "mae")
    assert "it has no vae" in refused(tmp_path, "BASE_FOLDER", base=lab.base)


@pytest.mark.parametrize("name", ["../../weights.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "..", ""])
def test_an_index_that_leads_elsewhere_is_refused(lab, tmp_path, name):
    index = lab.base / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    value = json.loads(index.read_text())
    value["weight_map"][next(iter(value["weight_map"]))] = name
    index.write_text(json.dumps(value))
    refused(tmp_path, "WEIGHTS_NAME", base=lab.base)


def test_a_pickle_is_never_read(lab, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = lab.base / "vae"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(Bomb(), folder / "diffusion_pytorch_model.bin")
    assert "runs code" in refused(tmp_path, "WEIGHTS_PICKLE", base=lab.base)
    (folder / "diffusion_pytorch_model.bin").rename(folder / "diffusion_pytorch_model.safetensors")
    refused(tmp_path, "WEIGHTS_FILE", base=lab.base)
    assert not (tmp_path / "ran").exists()


def test_the_other_presets_and_backends_take_their_own_weights(lab, tmp_path):
    for preset_name, backend in (("a1_tiny", "onnx"), ("test_tiny", "torch")):
        asked = replace(order(tmp_path, base=lab.base), preset=preset_name, backend=backend)
        with pytest.raises(ConfigError, match="use --weights"):
            intake(asked, preset(preset_name))


def test_a_wan_pipeline_has_a_pictures_encoder_too(tmp_path):
    size, base = preset("test_wan"), tmp_path / "base"
    networks = build(size, 4)
    folders = {"transformer": "preview", "vae": "codec", "text_encoder": "text", "image_encoder": "vision"}
    for folder, part in folders.items():
        networks.parts()[part].save_pretrained(base / folder)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.save_pretrained(base / "scheduler")
    spare = base / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(spare) | {"blocks.0.attn2.norm_added_q.weight": torch.ones(48)}, spare)
    clip = base / "image_encoder" / "model.safetensors"
    state = {f"vision_model.{name.removeprefix('vision_model.')}": tensor for name, tensor in load_file(clip).items()}
    save_file(state, clip)
    asked = Order("test_wan", "onnx", tmp_path / "out", 0, ("export",), base=base)
    made = intake(asked, size)
    for part in folders.values():
        wanted, source = networks.parts()[part].state_dict(), made.stored.sources[part]
        assert all(torch.equal(source.read(name), wanted[name]) for name in source.dtypes), part
    edit(base / "vae" / "config.json", latents_mean=[0.0] * 4)
    edit(base / "image_encoder" / "config.json", patch_size=16)
    edit(base / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    with pytest.raises(ConfigError, match="3 things"):
        intake(asked, size)
