"""Linear layers in 8 bits: their names, their numbers, and a graph's use of just these numbers."""

import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from onnxscript import ir
from safetensors.torch import load_file
from torch import nn

from dvgwm.export import calibration as calibrating
from dvgwm.export.assembly import build_bundle
from dvgwm.export.calibration import Calibration
from dvgwm.export.interface import engine_spec
from dvgwm.export.linear_layers import block_of, linear_layers
from dvgwm.export.onnx_graph import check_graph, export_onnx
from dvgwm.export.order import STEPS, Order
from dvgwm.export.parity import LOSSLESS
from dvgwm.export.quantise import EIGHT_BIT, quantise_graph, quantise_weights, smoothing
from dvgwm.export.scenes import CALIBRATING, HELD_OUT, drawn, recorded
from dvgwm.export.shared_weights import places, weights_of
from dvgwm.export.tensorrt_operators import unsupported
from dvgwm.export.verify import engine_parity
from dvgwm.models.graph import ATTENTION_OPSET, Graph
from dvgwm.models.precision import GraphPrecision
from dvgwm.models.weights import save_tensors
from dvgwm.runtime.backends.compiling import GraphSource
from dvgwm.runtime.backends.onnx import open_backend
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.bundle.manifest import InputContract
from dvgwm.runtime.config.plugins import shipped
from dvgwm.runtime.errors import BundleIncompatibleError, ConfigError
from dvgwm.runtime.record.lerobot import Episode, Schema
from dvgwm.runtime.record.writer import finish, write_episodes

pytestmark = [pytest.mark.torch, pytest.mark.ort, pytest.mark.slow]
WIDTH, TOKENS, BLOCKS = 24, 40, 4
LAYERS = ("attn1.to_q", "attn1.to_k", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
WEIGHTS = GraphPrecision(torch.float32, "int8")
BOTH = {kind: GraphPrecision(torch.float32, kind, activations=True) for kind in EIGHT_BIT}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, x):
        return self.to_out[0](torch.tanh(self.to_q(x)) * self.to_k(x))


class Block(nn.Module):
    """Named as diffusers names them; its modulation makes one channel much larger than the others, as trained ones do."""

    def __init__(self):
        super().__init__()
        self.norm1, self.attn1, self.ff = nn.Module(), Attention(), nn.Module()
        self.norm1.linear = nn.Linear(WIDTH, WIDTH)
        self.ff.net = nn.ModuleList([nn.Module(), nn.Identity(), nn.Linear(2 * WIDTH, WIDTH)])
        self.ff.net[0].proj = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x):
        gain = torch.ones(WIDTH)
        gain[3] = 30.0
        modulated = nn.functional.layer_norm(x + self.norm1.linear(x), (WIDTH,)) * gain
        x = x + self.attn1(modulated)
        hidden = nn.functional.layer_norm(x, (WIDTH,)) * gain
        return x + self.ff.net[2](nn.functional.gelu(self.ff.net[0].proj(hidden), approximate="tanh"))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        self.transformer_blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])

    def forward(self, state):
        x = self.proj_in(state)
        for block in self.transformer_blocks:
            x = block(x)
        return self.proj_out(x)


def tokens(seed):
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A transformer as the export writes it: half-precision weights beside a float32 graph."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    network = Transformer().eval().requires_grad_(False)
    for tensor in network.parameters():
        tensor.copy_(tensor.half())
    save_tensors(
        {name: tensor.half() for name, tensor in network.state_dict().items()}, folder / "float.preview.safetensors"
    )
    graph = Graph("preview", network, {"state": tokens(0)}, ("velocity",), opset=ATTENTION_OPSET)
    path = folder / "float.preview.onnx"
    known = places([folder / "float.preview.safetensors"])
    weights = weights_of(network, {"preview": network}, {"preview": known})
    export_onnx(network, graph.inputs, graph.outputs, {}, path, graph.opset, weights)
    return folder, network, graph


def layers_of(folder):
    graph = onnx.load(folder / "float.preview.onnx", load_external_data=False)
    return linear_layers(graph, places([folder / "float.preview.safetensors"]))


def ranges_of(exported):
    folder, _, graph = exported
    spec = engine_spec(graph)
    watched = calibrating._watch(folder / "float.preview.onnx", spec, layers_of(folder), open_backend(1).load)
    watched.counts = True
    for seed in (1, 2, 3):
        watched.run({"state": tokens(seed).numpy()})
    return watched.ranges


def quantised(exported, out, precision, factors=None):
    """Return the engine in 8 bits, its file of weights, and its graph."""
    folder, _, graph = exported
    layers, source = layers_of(folder), [folder / "float.preview.safetensors"]
    ranges = ranges_of(exported) if precision.activations else {}
    factors = smoothing(layers, source, ranges, precision) if factors is None else factors
    files = [out / "preview.safetensors"]
    quantise_weights(source[0], files[0], layers, factors, precision)
    model = ir.load(folder / "float.preview.onnx")
    quantise_graph(model, source, files, layers, factors, ranges, precision)
    path = out / "preview.onnx"
    path.write_bytes(ir.to_proto(model).SerializeToString())
    check_graph(path)
    return open_backend(1).load(path, engine_spec(graph)), files[0], onnx.load(path, load_external_data=False).graph


def apart(exported, engine):
    """Return the engine's relative distance from torch in float32, on numbers outside its calibration."""
    expected = exported[1](tokens(9)).numpy()
    got = engine.run({"state": tokens(9).numpy()})["velocity"]
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", ["int8_weights", "int8", "fp8"])
def test_a_denoiser_in_8_bits_compiles_for_the_cards_that_have_them(rtx_compiler, exported, tmp_path, name):
    """In TensorRT for RTX's real builder: it goes by the QuantizeLinear and DequantizeLinear of a layer alone."""
    kind = {"int8_weights": WEIGHTS, "int8": BOTH["int8"], "fp8": BOTH["fp8"]}[name]
    quantised(exported, tmp_path, kind)
    graph = exported[2]
    shapes = {"state": tuple(graph.inputs["state"].shape)}
    source = GraphSource(tmp_path / "preview.onnx", engine_spec(graph), shapes, "g", "w")
    building = rtx_compiler.usual(name)
    with (tmp_path / "engine").open("wb") as file:
        rtx_compiler.write(source, building, file.fileno(), lambda *_: None)
    assert (tmp_path / "engine").stat().st_size > 10_000
    if name == "fp8":
        older = replace(building, capabilities=("8.6",))
        with (
            (tmp_path / "none").open("wb") as file,
            pytest.raises(BundleIncompatibleError, match="Cannot compile for target"),
        ):
            rtx_compiler.write(source, older, file.fileno(), lambda *_: None)


def test_the_linear_layers_are_those_of_attention_and_feed_forward_in_every_block(exported):
    layers = layers_of(exported[0])
    names = {f"transformer_blocks.{block}.{name}.weight" for block in range(BLOCKS) for name in LAYERS}
    assert {layer.weight for layer in layers} == names
    assert {layer.block for layer in layers if layer.inner} == {1, 2}
    taken = {layer.weight: layer.taken for layer in layers}
    assert taken["transformer_blocks.1.attn1.to_q.weight"] == taken["transformer_blocks.1.attn1.to_k.weight"]
    assert len(set(taken.values())) == BLOCKS * (len(LAYERS) - 1)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("transformer_blocks.41.ff.net.0.proj.weight", 41),
        ("blocks.3.attn2.add_k_proj.weight", 3),
        ("blocks.3.ffn.net.2.weight", 3),
        ("transformer_blocks.2.norm1.linear.weight", None),
        ("patch_embed.text_proj.weight", None),
        ("proj_out.weight", None),
    ],
)
def test_a_layers_name_says_its_block(name, block):
    assert block_of(name, (8, 8)) == block
    assert block_of(name, (8,)) is None, "a bias"


def test_ranges_are_the_largest_magnitude_of_every_channel(exported):
    _, network, _ = exported
    seen = []
    first = network.transformer_blocks[1].attn1.to_q
    hook = first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].abs().amax((0, 1))))
    for seed in (1, 2, 3):
        network(tokens(seed))
    hook.remove()
    taken = next(
        layer.taken for layer in layers_of(exported[0]) if layer.weight == "transformer_blocks.1.attn1.to_q.weight"
    )
    measured = ranges_of(exported)[taken]
    assert np.allclose(measured, torch.stack(seen).amax(0).numpy(), rtol=1e-4)
    assert measured[3] > 5 * np.median(measured), "the channel that modulation makes large"
    assert not list(exported[0].glob("watched*"))


@pytest.mark.parametrize("kind", EIGHT_BIT)
def test_weights_in_8_bits_are_computed_with_just_as_they_were_rounded(exported, tmp_path, kind):
    """The graph computes as torch with the weights read back: an engine's own rounding would not."""
    engine, file, graph = quantised(exported, tmp_path, replace(WEIGHTS, linear=kind))
    stored, before = load_file(file), load_file(exported[0] / "float.preview.safetensors")
    names = {layer.weight for layer in layers_of(exported[0])}
    assert {name for name, tensor in stored.items() if tensor.dtype == EIGHT_BIT[kind].dtype} == names
    assert stored.keys() - before.keys() == {f"{name}.scale" for name in names}
    state = exported[1].state_dict()
    for name, weight in before.items():
        if name in names:
            read = (stored[name].float() * stored[f"{name}.scale"].float()).T
            off = (read - weight.float()).abs() / weight.float().abs().amax(1, keepdim=True)
            assert off.max() <= (0.5 / 127 if kind == "int8" else 2**-4) * 1.01
            state[name] = read
    rounded = Transformer().eval()
    rounded.load_state_dict(state)
    with torch.no_grad():
        expected = rounded(tokens(9)).numpy()
    assert np.abs(engine.run({"state": tokens(9).numpy()})["velocity"] - expected).max() < 1e-5
    assert 1e-4 < apart(exported, engine) < 0.05
    assert Counter(node.op_type for node in graph.node)["DequantizeLinear"] == len(names)
    assert not any(node.op_type == "QuantizeLinear" for node in graph.node)
    assert not any(tensor.name.endswith(".stored") and names & {tensor.name} for tensor in graph.initializer)


def rounded_by_hand(exported, file, kind):
    """Return the network with the stored weights; its inner layers round their inputs."""
    layers, stored, ranges = layers_of(exported[0]), load_file(file), ranges_of(exported)
    factors = smoothing(layers, [exported[0] / "float.preview.safetensors"], ranges, BOTH[kind])
    network = Transformer().eval().requires_grad_(False)
    network.load_state_dict(exported[1].state_dict())
    for layer in layers:
        module = network.get_submodule(layer.weight.removesuffix(".weight"))
        module.weight.copy_((stored[layer.weight].float() * stored[f"{layer.weight}.scale"].float()).T)
        if layer.inner:
            factor = torch.from_numpy(np.asarray(factors.get(layer.taken, np.ones(layer.place.shape[1], np.float32))))
            step = float((torch.from_numpy(ranges[layer.taken]) / factor).max()) / EIGHT_BIT[kind].largest

            def rounding(module, inputs, factor=factor, step=step):
                return (EIGHT_BIT[kind].rounded(inputs[0] / factor / step).float() * step,)

            module.register_forward_pre_hook(rounding)
    return network


@pytest.mark.parametrize("kind", EIGHT_BIT)
def test_activations_in_8_bits_are_those_of_inner_blocks_alone(exported, tmp_path, kind):
    engine, file, graph = quantised(exported, tmp_path, BOTH[kind])
    made = {output: node for node in graph.node for output in node.output}
    inner = {layer.node: layer.inner for layer in layers_of(exported[0])}
    for node in graph.node:
        if node.op_type == "MatMul":
            rounded = node.input[0] in made and made[node.input[0]].op_type == "DequantizeLinear"
            assert rounded == inner.get(node.output[0], False), node.output[0]
    counts = Counter(node.op_type for node in graph.node)
    assert counts["QuantizeLinear"] == 2 * (len(LAYERS) - 1), "one for queries and keys, which take the same"
    expected = rounded_by_hand(exported, file, kind)(tokens(9)).numpy()
    off = np.linalg.norm(engine.run({"state": tokens(9).numpy()})["velocity"] - expected) / np.linalg.norm(expected)
    assert off < 0.1 * apart(exported, engine), "but for what lies between two steps"


def test_a_large_channel_leaves_the_others_their_bits(exported, tmp_path):
    (tmp_path / "plain").mkdir()
    smooth, _, _ = quantised(exported, tmp_path, BOTH["int8"])
    plain, _, _ = quantised(exported, tmp_path / "plain", BOTH["int8"], factors={})
    weights, _, _ = quantised(exported, tmp_path / "plain", WEIGHTS)
    assert apart(exported, weights) < apart(exported, smooth) < 0.7 * apart(exported, plain)


def test_fp8_takes_numbers_beyond_its_range_as_its_largest():
    numbers = torch.tensor([500.0, -1e6, 0.3, 0.0])
    assert EIGHT_BIT["fp8"].rounded(numbers).float().tolist() == [448.0, -448.0, 0.3125, 0.0]
    assert EIGHT_BIT["int8"].rounded(numbers).tolist() == [127, -127, 0, 0]


def test_a_channel_of_nothing_stays_nothing(exported, tmp_path):
    source = exported[0] / "float.preview.safetensors"
    state = load_file(source)
    name = "transformer_blocks.1.attn1.to_q.weight"
    state[name][5] = 0
    save_tensors(state, tmp_path / "zero.safetensors")
    quantise_weights(tmp_path / "zero.safetensors", tmp_path / "q.safetensors", layers_of(exported[0]), {}, WEIGHTS)
    stored = load_file(tmp_path / "q.safetensors")
    assert not stored[name][:, 5].any()
    assert torch.isfinite(stored[f"{name}.scale"]).all()


def test_what_was_calibrated_is_read_back_as_it_was(tmp_path):
    ranges = {"preview": {"a/b": np.float32([1, 2])}, "refine": {"x": np.float32([3])}}
    inputs = {"preview": [{"state": np.float32([[1]]), "text": np.float32([2])}, {"state": np.float32([[4]])}]}
    Calibration(ranges, inputs).save(tmp_path / "c.safetensors")
    again = Calibration.load(tmp_path / "c.safetensors")
    assert again.ranges.keys() == ranges.keys()
    assert np.array_equal(again.ranges["preview"]["a/b"], [1, 2])
    assert [sorted(given) for given in again.inputs["preview"]] == [["state", "text"], ["state"]]
    assert again.inputs["preview"][1]["state"].item() == 4


@pytest.mark.thorough
def test_held_out_scenes_add_nothing_to_the_ranges_and_their_inputs_are_kept(tmp_path):
    bundle = read_bundle(shutil.copytree(shipped("a1_tiny"), tmp_path / "bundle"))
    path = bundle.path / "preview.onnx"
    layers = linear_layers(onnx.load(path, load_external_data=False), places([bundle.path / "preview.safetensors"]))
    assert len(layers) == 5 * 6
    scenes = [drawn(bundle.manifest, seed) for seed in range(1, 2 + HELD_OUT)]

    def known(shown):
        return list(calibrating.calibrate(bundle, {"preview": path}, {"preview": layers}, shown))

    first, *_, last = known(scenes)
    assert first.ranges["preview"].keys() == {layer.taken for layer in layers}
    for name, largest in first.ranges["preview"].items():
        assert np.array_equal(last.ranges["preview"][name], largest), name
    more = known([scenes[1], *scenes])[-1]
    assert any((more.ranges["preview"][name] > largest).any() for name, largest in first.ranges["preview"].items())
    kept = last.inputs["preview"]
    assert len(kept) == HELD_OUT
    assert kept[0].keys() == {"state", "time", "text", "image"}
    assert not np.array_equal(kept[0]["image"], kept[1]["image"])
    assert not list(bundle.path.glob("watched*"))


def test_an_engine_is_judged_on_the_inputs_that_are_given(exported):
    folder, network, graph = exported
    first, other = ({"state": tokens(seed).numpy()} for seed in (4, 5))
    backend, path = open_backend(1), folder / "float.preview.onnx"
    parity = engine_parity(graph, backend, path, engine_spec(graph), LOSSLESS, [first, other])["preview"]
    apart = (network(tokens(5)) - network(tokens(4))).abs().max()
    assert parity.control == pytest.approx(float(apart), rel=1e-3)
    assert parity.max_abs < 1e-4


def data_set(root, cameras=("scene",), episodes=3):
    """Write a data set of pictures with their episode and their time: (episode, frame) in two halves."""
    schema = Schema("galaxea_a1", 10.0, dict.fromkeys(cameras, (64, 96)), ("x",), ("x",))
    made = []
    for index in range(episodes):
        frames = np.zeros((20, 64, 96, 3), np.uint8)
        frames[:, :, :48] = 60 * index + 40
        frames[:, :, 48:] = 12 * np.arange(20)[:, None, None, None]
        vectors = np.arange(20.0)[:, None] + 100 * index
        made.append(Episode(f"task {index}", dict.fromkeys(cameras, frames), vectors, vectors, {}))
    tasks = {episode.instruction: index for index, episode in enumerate(made)}
    write_episodes(root, schema, 0, 0, tasks, made)
    finish(root, schema, tasks, {"train": f"0:{episodes}"}, {})
    return root


def test_scenes_are_spread_over_episodes_and_time(tmp_path):
    contract = InputContract("scene", 64, 96, 10.0)
    scenes = list(recorded(data_set(tmp_path / "d"), contract))
    assert len(scenes) == CALIBRATING + HELD_OUT
    assert sorted(Counter(scene.instruction for scene in scenes).values()) == [5, 6, 7]
    assert all(one.instruction != other.instruction for one, other in pairwise(scenes)), "held-out ones differ"
    states = [scene.observation.joints[0] for scene in scenes]
    assert max(Counter(states).values()) == 1, "other moments of each"
    for scene in scenes:
        image, (episode, frame) = (
            scene.observation.images["scene"].astype(float),
            divmod(scene.observation.joints[0], 100),
        )
        assert abs(image[:, 8:40].mean() - (60 * episode + 40)) < 6
        assert abs(image[:, 56:88].mean() - 12 * frame) < 6


def test_the_only_camera_is_the_bundles_whatever_it_is_called(tmp_path):
    contract = InputContract("scene", 32, 48, 10.0)
    (first, *_) = recorded(data_set(tmp_path / "one", ("front",)), contract)
    assert first.observation.images["scene"].shape == (32, 48, 3)
    with pytest.raises(ConfigError, match="wanted a camera called 'scene', or one only; got front, wrist"):
        next(recorded(data_set(tmp_path / "two", ("front", "wrist")), contract))
    with pytest.raises(ConfigError, match="no LeRobot data set"):
        next(recorded(tmp_path, contract))


@pytest.mark.parametrize(
    ("precision", "given"), [("int8", None), ("fp8", None), ("int8_weights", "d"), ("float32", "d")]
)
def test_an_order_says_whether_it_wants_something_recorded(tmp_path, precision, given):
    order = Order("a1_tiny", "onnx", tmp_path / "b", 0, precision=precision, calibrate=given and tmp_path / given)
    with pytest.raises(ConfigError, match="--calibrate"):
        order.checked()
    replace(order, calibrate=None if given else tmp_path).checked()


@pytest.mark.thorough
def test_a_bundle_in_int8_is_calibrated_verified_and_as_small_as_it_says(tmp_path):
    """The trained a1_tiny, stopped once: ranges are not taken again, nor is a graph set apart left in the bundle."""
    order = Order(
        "a1_tiny", "onnx", tmp_path / "b", 0, STEPS[:2], precision="int8", weights=shipped("a1_tiny"),
        calibrate=data_set(tmp_path / "d"),
    )  # fmt: skip
    first = build_bundle(order, lambda *_: None)
    assert "preview.onnx" in first.made
    made = build_bundle(replace(order, steps=STEPS[:3]), lambda *_: None)
    assert made.made == ()
    bundle = read_bundle(made.bundle.path, "onnx")
    assert bundle.manifest.precision == "int8"
    assert {path.name for path in bundle.path.iterdir()} == {path.name for path in shipped("a1_tiny").iterdir()}
    parity = bundle.manifest.parity["preview"]
    assert 1e-4 < parity.relative_l2 < parity.tolerance == 0.045
    sizes = [sum((folder / f"{part}.safetensors").stat().st_size for part in ("preview", "refiner")) for folder in
             (bundle.path, shipped("a1_tiny"))]  # fmt: skip
    assert sizes[0] < 0.65 * sizes[1], "of half precision"
    assert not any(unsupported(path) for path in bundle.path.glob("*.onnx")), "TensorRT's list has all of it"
    with pytest.raises(ConfigError, match="8 bits"):
        build_bundle(replace(order, weights=bundle.path, out=tmp_path / "again"), lambda *_: None)
