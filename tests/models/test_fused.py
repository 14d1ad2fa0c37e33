"""The fused transformer computes what diffusers' computes, in every precision, and moves far less memory for it."""

import copy
import importlib.util
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("diffusers", reason="the export extra is not installed")

from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from torch._subclasses.fake_tensor import FakeTensorMode

from dvgwm.models.dit import build_transformer, rotary_positions
from dvgwm.models.fused import FusedTransformer, LinearFp8, Modulations, score_bound
from dvgwm.models.networks import build
from dvgwm.models.precision import PRECISIONS, precision
from dvgwm.models.presets import preset
from dvgwm.runtime.errors import ConfigError

pytestmark = pytest.mark.torch

SPEC = importlib.util.spec_from_file_location("traffic", Path(__file__).parents[2] / "benchmarks" / "traffic.py")
traffic = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(traffic)
SIZE = preset("a1_tiny")
BOUNDS = {
    "float32": 1e-5,
    "bfloat16": 0.02,
    "bfloat16_kernel": 0.02,
    "fp8": 0.05,
    "fp8_kernel": 0.05,
    "fp8_8bit": 0.05,
    "fp8_fp8": 0.06,
}


@pytest.fixture(scope="module")
def transformer():
    """a1_tiny's preview, its norms away from one and zero so every weight counts."""
    made = build(SIZE).preview
    generator = torch.Generator().manual_seed(1)
    for module in made.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.data = 1 + 0.3 * torch.randn(module.weight.shape, generator=generator)
            module.bias.data = 0.3 * torch.randn(module.bias.shape, generator=generator)
    made.set_attn_processor(CogVideoXAttnProcessor2_0())
    return made


@pytest.fixture(scope="module")
def inputs(transformer):
    generator = torch.Generator().manual_seed(2)
    grid, channels = SIZE.grid(SIZE.low), transformer.config.in_channels
    return {
        "hidden_states": torch.randn(2, SIZE.latent_frames, channels, *grid, generator=generator),
        "encoder_hidden_states": torch.randn(2, SIZE.text.max_tokens, SIZE.text.width, generator=generator),
        "timestep": torch.tensor([499.0, 499.0]),
        "image_rotary_emb": rotary_positions(SIZE.preview, grid, SIZE.latent_frames),
    }


def velocity(network, inputs):
    with torch.no_grad():
        return network(**inputs, return_dict=False)[0]


def relative(ours, reference):
    return float((ours - reference).norm() / reference.norm())


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_is_diffusers_transformer(transformer, inputs, name):
    before = {key: tensor.clone() for key, tensor in transformer.state_dict().items()}
    reference = velocity(transformer, inputs)
    ours = velocity(FusedTransformer(transformer, PRECISIONS[name]), inputs)
    assert ours.dtype == torch.float32
    assert relative(ours, reference) < BOUNDS[name]
    after = transformer.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "the given transformer was changed"


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfloat16_kernel", "fp8_8bit"])
def test_a_block_is_one_graph_for_torch_compile(transformer, inputs, name):
    """As the GPU benchmark compiles it: no break in the graph, and the numbers of the eager one."""
    fused = FusedTransformer(transformer, PRECISIONS[name])
    eager = velocity(fused, inputs)
    calls = []
    for block in fused.blocks[:2]:
        block.compile(fullgraph=True, dynamic=False)
        block.register_forward_hook(lambda *_: calls.append(1))
    compiled = velocity(fused, inputs)
    assert len(calls) == 2
    assert relative(compiled, eager) < 0.02
    fused.blocks[1].norms[2].data *= 1.5
    assert relative(velocity(fused, inputs), eager) > 0.02, "what is compiled is this block"


@pytest.mark.gpu
@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_on_the_gpu(transformer, inputs, name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if PRECISIONS[name].fp8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8")
    there = {
        key: tuple(part.cuda() for part in value) if isinstance(value, tuple) else value.cuda()
        for key, value in inputs.items()
    }
    ours = velocity(FusedTransformer(transformer, PRECISIONS[name]).cuda(), there).cpu()
    assert relative(ours, velocity(transformer, inputs)) < max(BOUNDS[name], 1e-4)


@pytest.mark.parametrize(
    "part",
    ["norm1.linear.weight", "norm2.norm.bias", "attn1.norm_k.weight", "attn1.to_v.bias", "ff.net.0.proj.weight"],
)
def test_every_weight_counts(transformer, inputs, part):
    """Negative control: a tenth more of one layer's weight is seen."""
    other = copy.deepcopy(transformer)
    weight = other.transformer_blocks[3].get_parameter(part)
    weight.data = weight.data * 1.1 + 0.01
    reference = velocity(transformer, inputs)
    assert relative(velocity(FusedTransformer(other, PRECISIONS["float32"]), inputs), reference) > 1e-4


@pytest.mark.parametrize("name", ["float32", "bfloat16", "fp8_kernel"])
def test_modulations_that_are_given_are_those_that_it_makes(transformer, inputs, name):
    """Bit for bit, and without the weights; control: of another time."""
    recipe = PRECISIONS[name]
    modulations, apart = Modulations(transformer, recipe.dtype), FusedTransformer(transformer, recipe, modulated=True)
    whole = FusedTransformer(transformer, recipe)
    with torch.no_grad():
        given, other = (modulations(torch.tensor([time])) for time in (499.0, 480.0))
    assert torch.equal(velocity(whole, inputs), velocity(apart, {**inputs, "modulation": given}))
    assert not torch.equal(velocity(whole, inputs), velocity(apart, {**inputs, "modulation": other}))
    held, less = (sum(tensor.numel() for tensor in made.state_dict().values()) for made in (whole, apart))
    assert held - less == sum(tensor.numel() for tensor in modulations.state_dict().values())
    assert modulations.linear.weight.numel() > held / 10
    with pytest.raises(AssertionError, match="a modulation, or the weights for it"):
        velocity(apart, inputs)


def test_a_full_size_denoiser_has_two_gigabytes_less_in_memory():
    """In bfloat16: the preview's weights of modulations are 1.6 GB, the refiner's .7; a plan's rows are .17."""
    size, spared = preset("dvgwm_5b"), 0.0
    for dit, rows in ((size.preview, 50), (size.refiner, 4)):
        with torch.device("meta"):
            plain = torch.nn.Module.to(build_transformer(dit, size, 1), torch.bfloat16)
            modulations = Modulations(plain, torch.bfloat16)
            row = modulations(torch.empty(1))
        spared += sum(tensor.nbytes for tensor in modulations.state_dict().values()) - rows * row.nbytes
    assert 2.1e9 < spared < 2.4e9


def test_no_score_is_larger_than_its_bound(transformer):
    """For the tokens with the largest; the bound is no more than a third too large for them."""
    block = FusedTransformer(transformer, PRECISIONS["bfloat16_kernel"]).blocks[3]
    weights, biases = (block.norms[4].float(), block.norms[6].float()), (block.norms[5].float(), block.norms[7].float())
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(20_000, weights[0].numel(), generator=generator)
    spiked = torch.eye(weights[0].numel()) * 1e4  # nearly all of a norm's length in one channel
    tokens = torch.cat([tokens, spiked, -spiked])
    query, key = (
        (torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], weight, bias).bfloat16().float())
        for weight, bias in zip(weights, biases, strict=True)
    )
    longest = float(query.norm(dim=-1).max() * key.norm(dim=-1).max()) * block.scale
    assert longest < block.bound < 1.35 * longest
    assert float((query @ key.T).abs().max()) * block.scale < block.bound
    for norm in (4, 6):
        block.norms[norm].data *= 1.5
    assert score_bound(block.norms[4:6], block.norms[6:8], block.scale) > 1.5 * block.bound, "control: larger weights"


def test_no_bound_where_there_are_no_numbers(transformer):
    assert score_bound([torch.ones(8, device="meta")] * 2, [torch.ones(8)] * 2, 1.0) is None
    with FakeTensorMode():
        assert score_bound([torch.ones(8)] * 2, [torch.ones(8)] * 2, 1.0) is None
    assert score_bound([torch.ones(4), torch.zeros(4)], [torch.ones(4), torch.zeros(4)], 0.5) == pytest.approx(
        2.0, rel=0.01
    )


def test_fp8_keeps_the_ends_and_the_modulation_in_high_precision(transformer):
    made = FusedTransformer(transformer, PRECISIONS["fp8"])
    quantised = [any(isinstance(m, LinearFp8) for m in block.modules()) for block in made.blocks]
    assert quantised == [False, *[True] * (len(quantised) - 2), False]
    assert made.modulations.linear.weight.dtype == made.output.weight.dtype == torch.bfloat16


def test_an_unknown_recipe_names_those_that_exist():
    with pytest.raises(ConfigError, match="bfloat16_kernel"):
        precision("int3")


@pytest.mark.parametrize(("stage", "branches"), [("preview", 2), ("refiner", 1)])
def test_a_full_size_forward_moves_far_less(stage, branches):
    """Counted on the meta device, without computing a number: operators, bytes, and bytes outside of products."""
    size = preset("dvgwm_5b")
    dit, pixels = (size.preview, size.low) if stage == "preview" else (size.refiner, size.high)
    with torch.device("meta"):
        plain = torch.nn.Module.to(build_transformer(dit, size, 1), torch.bfloat16)
        plain.set_attn_processor(CogVideoXAttnProcessor2_0())
        grid = size.grid(pixels)
        tokens = size.latent_frames * (grid[0] // 2) * (grid[1] // 2)
        given = {
            "hidden_states": torch.empty(branches, size.latent_frames, 32, *grid, dtype=torch.bfloat16),
            "encoder_hidden_states": torch.empty(branches, 226, 4096, dtype=torch.bfloat16),
            "timestep": torch.empty(branches),
            "image_rotary_emb": (torch.empty(tokens, 64), torch.empty(tokens, 64)),
        }
        theirs = traffic.traffic(plain, **given, return_dict=False)
        ours = traffic.traffic(FusedTransformer(plain, PRECISIONS["bfloat16_kernel"]), **given)
        eight = traffic.traffic(FusedTransformer(plain, PRECISIONS["fp8"]), **given)
    assert theirs.operators > 5 * ours.operators
    assert theirs.moved_bytes > 2.5 * ours.moved_bytes
    assert theirs.elementwise_bytes > 4 * ours.elementwise_bytes
    assert eight.moved_bytes < ours.moved_bytes
