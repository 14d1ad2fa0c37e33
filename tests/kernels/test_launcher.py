"""The shipped cubins on a GPU: the same numbers as the kernels compiled on the spot."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels import aot
from dvgwm.kernels.affine_step import compiled_affine_step
from dvgwm.kernels.attention import compiled_attention
from dvgwm.runtime.cuda import CudaKernels
from dvgwm.runtime.sampler import SamplerSpec, table

pytestmark = [pytest.mark.torch, pytest.mark.gpu]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    major, minor = torch.cuda.get_device_capability()
    out = tmp_path_factory.mktemp("cubins")
    assert aot.main(["--arch", str(10 * major + minor), "--out", str(out)]) == 0
    return CudaKernels(folder=out)


def stream():
    return torch.cuda.current_stream().cuda_stream


@pytest.mark.parametrize("count", [1, 1000, 1 << 20])
def test_affine_step(kernels, count):
    state, velocity = torch.randn(1, count, device="cuda"), torch.randn(2, count, device="cuda")
    wanted = state.clone()
    row = table(SamplerSpec("ddim_v", 4, guidance=6.0)).steps[1]
    compiled_affine_step(wanted, velocity, None, None, row.a, row.b, 0.0, 0.0, 0.0, 0.0, 6.0, math.inf, 1.0, 0.0)
    kernels.affine_step(row, state, velocity, None, None, count, 2, ("fp32", "fp32"), stream())
    torch.cuda.synchronize()
    assert torch.equal(state, wanted)


@pytest.mark.parametrize("length", [64, 5218])
def test_attention(kernels, length):
    query, key, value = (torch.randn(1, 4, length, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    output = torch.empty(1, length, 4, 64, device="cuda", dtype=torch.bfloat16)
    facts = kernels.facts("attention_bf16_d64")
    values = {"heads": 4, "length": length, "keys": length, "scale_log2": 0.125 * math.log2(math.e)}
    for name, part in (("query", query), ("key", key), ("value", value), ("output", output.transpose(1, 2))):
        values[f"{name}_ptr"] = part.data_ptr()
        values |= {f"{name}_{axis}": part.stride(index) for index, axis in enumerate("bhs")}
    grid = (-(-length // facts.constants["BLOCK_M"]), 4, 1)
    kernels.launch("attention_bf16_d64", grid, values, stream())
    torch.cuda.synchronize()
    assert torch.equal(output, compiled_attention(query, key, value, 0.125))
