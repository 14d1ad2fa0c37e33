"""The shipped cubins: our operators' launches fit them, and on a GPU they give the same numbers."""

import math
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels import (
    affine_step,
    aot,
    attention,
    attention_8bit,
    attention_tma,
    bridge,
    modulate,
    qk_norm_rope,
    quantise,
)
from dvgwm.kernels import spatial_norm as spatial
from dvgwm.kernels.launch import Launch
from dvgwm.kernels.variant import ARCHITECTURES, FP8_ARCHITECTURES
from dvgwm.runtime.backends.cubins import KernelFacts
from dvgwm.runtime.backends.cuda import CudaKernels, arguments

pytestmark = pytest.mark.torch

ROW = (0.9, -0.3, 0.2, 0.1, 0.4, 0.6, 6.0, math.inf, 1.0, 0.0)
CALLS = (
    "affine_step", "attention", "attention_8bit", "attention_fp8", "bridge", "modulate", "modulate_first", "modulate_8bit",
    "modulate_first_8bit", "qk_norm_rope", "qk_norm_rope_8bit", "qk_norm_rope_fp8", "quantise", "quantise_gelu",
    "spatial_norm", "attention_tma", "attention_fixed", "attention_tma_fixed",
)  # fmt: skip
FP8 = ("attention_fp8", "qk_norm_rope_fp8", "modulate_8bit", "modulate_first_8bit", "quantise", "quantise_gelu")


def check_target(name, architecture):
    """Skip if this target has no such kernel."""
    if name in FP8 and architecture not in FP8_ARCHITECTURES:
        pytest.skip("this target has no FP8")
    if name.startswith("attention_tma") and architecture not in attention_tma.ARCHITECTURES:
        pytest.skip("this target has no form with parts for loading and multiplying")


def prepare(name, device):
    """Return a maker of an operator's launches and their results, at the full-size networks' widths, on few tokens."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    query, key, value = (draw(1, 150, 2, 64).transpose(1, 2) for _ in range(3))
    parts = (*qk_norm_rope.quantise_blocks(query.float()), *qk_norm_rope.quantise_blocks(key.float()))
    all_fp8 = (*qk_norm_rope.quantise_blocks_fp8(query), *qk_norm_rope.quantise_blocks_fp8(key))
    qkv, norms, rotary = (
        draw(1, 150, 384),
        [draw(64) for _ in range(4)],
        [draw(140, 32, dtype=torch.float32) for _ in "cs"],
    )
    x, y, before, after, weight, bias = (
        *(draw(1, 9, 1920) for _ in "xy"),
        *(draw(2, 3, 1920) for _ in "ba"),
        *(draw(1920) for _ in "wb"),
    )
    video = draw(1, 128, 3, 6, 10).contiguous(memory_format=torch.channels_last_3d)
    maps, scales = [draw(1, 128, 2, 3, 5) for _ in "yb"], [draw(16, dtype=torch.float32) for _ in "ss"]
    latents, noise = draw(1, 3, 16, 4, 6, dtype=torch.float32), draw(1, 3, 16, 8, 12, dtype=torch.float32)
    state, velocity, history, xi = (draw(n, 5000, dtype=torch.float32) for n in (1, 2, 1, 1))

    def stepped():
        moved = state.clone()
        return affine_step.launch_affine_step(moved, velocity, history.clone(), xi, ROW), moved

    calls = {
        "affine_step": stepped,
        "attention": lambda: attention.launch_attention(query, key, value, 0.125, None),
        "attention_fixed": lambda: attention.launch_attention(query, key, value, 0.125, 20.0),
        "attention_8bit": lambda: attention_8bit.launch_attention_8bit(*parts, value, None, 0.125),
        "attention_fp8": lambda: attention_8bit.launch_attention_8bit(
            *all_fp8, *qk_norm_rope.quantise_values(value), 0.125
        ),
        "attention_tma": lambda: attention_tma.launch_attention_tma(query, key, value, 0.125, None),
        "attention_tma_fixed": lambda: attention_tma.launch_attention_tma(query, key, value, 0.125, 20.0),
        "bridge": lambda: bridge.launch_bridge(latents, *scales, noise, 0.8, 0.6),
        "modulate": lambda: modulate.launch_modulate(x, y, before, after, weight, bias, 4, 1e-5, False),
        "modulate_first": lambda: modulate.launch_modulate(x, None, after, after, weight, bias, 4, 1e-5, False),
        "modulate_8bit": lambda: modulate.launch_modulate(x, y, before, after, weight, bias, 4, 1e-5, True),
        "modulate_first_8bit": lambda: modulate.launch_modulate(x, None, after, after, weight, bias, 4, 1e-5, True),
        "qk_norm_rope": lambda: qk_norm_rope.launch_qk_norm_rope(qkv, *norms, *rotary, None, 2, 1e-6),
        "qk_norm_rope_8bit": lambda: qk_norm_rope.launch_qk_norm_rope(
            qkv, *norms, *rotary, draw(1, 2, 64, dtype=torch.float32), 2, 1e-6
        ),
        "qk_norm_rope_fp8": lambda: qk_norm_rope.launch_qk_norm_rope_fp8(
            qkv, *norms, *rotary, draw(1, 2, 64, dtype=torch.float32), 2, 1e-6
        ),
        "quantise": lambda: quantise.launch_quantise(x, False),
        "quantise_gelu": lambda: quantise.launch_quantise(draw(1, 9, 7680), True),
        "spatial_norm": lambda: spatial.launch_spatial_norm(
            video, draw(128), draw(128), *maps, video[:, :, :2].clone(memory_format=torch.channels_last_3d), 32, 1e-6
        ),
    }  # fmt: skip
    return calls[name]


def launched(call):
    launches, result = call()
    return ((launches,) if isinstance(launches, Launch) else launches), result


def facts_of(variant, architecture):
    """Return the JSON of ``variant``, as far as packing needs it."""
    pointers = {name for name, kind in variant.signature.items() if kind.startswith("*")}
    return KernelFacts(
        variant.name, "", architecture, tuple(variant.signature.items()), 2, frozenset(pointers | set(variant.divisible)),
        variant.constants, 32 * variant.warps, 0, "",
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", CALLS)
def test_what_an_operator_launches_fits_the_shipped_kernel(monkeypatch, name, architecture):
    check_target(name, architecture)
    for module in (attention, attention_8bit):
        monkeypatch.setattr(module, "capability", lambda tensor: architecture)
    launches, _ = launched(prepare(name, "cpu"))
    assert len(launches) == (3 if name == "spatial_norm" else 1)
    known = {variant.name: variant for variant in aot.variants(architecture)}
    for launch in launches:
        kernel, grid, values = launch.shipped(aot.variants(architecture))
        packed = arguments(facts_of(known[kernel], architecture), values)
        assert len(packed) == len(values) + 2
        assert all(0 < size < 2**31 for size in grid)
        assert max(grid[1:]) <= 65_535


def test_a_call_that_nothing_is_shipped_for_is_refused():
    x = torch.randn(1, 9, 100)
    with pytest.raises(ValueError, match="no shipped kernel"):
        quantise.launch_quantise(x, False)[0].shipped(aot.variants(90))


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    major, minor = torch.cuda.get_device_capability()
    out = tmp_path_factory.mktemp("cubins")
    # A process of its own: forking one that holds CUDA and threads may hang.
    build = [sys.executable, "-m", "dvgwm.kernels.aot", "--arch", str(10 * major + minor), "--out", str(out)]
    subprocess.run(build, check=True, timeout=300)
    return CudaKernels(folder=out)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CALLS)
def test_a_shipped_kernel_gives_the_numbers_of_the_one_compiled_on_the_spot(cubins, name):
    check_target(name, cubins.architecture)
    (launches, wanted), (shipped, made) = (launched(prepare(name, "cuda")) for _ in range(2))
    for launch in launches:
        launch.start()
    for launch in shipped:
        kernel, grid, values = launch.shipped(aot.variants(cubins.architecture))
        cubins.launch(kernel, grid, values, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    pairs = zip(*((result,) if isinstance(result, torch.Tensor) else result for result in (made, wanted)), strict=True)
    for ours, theirs in pairs:
        assert torch.equal(ours.float(), theirs.float())
