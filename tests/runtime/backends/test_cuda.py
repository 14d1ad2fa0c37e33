"""The launcher of ahead-of-time kernels, as far as it goes without a GPU: facts, arguments, targets, errors."""

import ctypes
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dvgwm.runtime.backends.cubins import KernelFacts, kernel_folder, read_kernel, target_for, targets
from dvgwm.runtime.backends.cuda import CudaKernels, affine_step_values, arguments
from dvgwm.runtime.errors import BundleCorruptError, ConfigError, InternalError, ShapeError
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec

GPU = Path("/dev/nvidiactl").exists()
FACTS = KernelFacts(
    "move", "move_kernel", 90, (("x_ptr", "*fp32"), ("count", "i32"), ("rows", "i32"), ("scale", "fp32")), 2,
    frozenset({"x_ptr", "rows"}), {"BLOCK": 8}, 128, 0, "0" * 64,
)  # fmt: skip
GOOD = {"x_ptr": 0x7F0000000010, "count": 7, "rows": 32, "scale": 1.5}


def write(folder, architecture, name="move", **changes):
    place = folder / f"sm_{architecture}"
    place.mkdir(parents=True, exist_ok=True)
    cubin = b"\x7fELF"
    data = {
        "name": name, "function": "move_kernel", "architecture": architecture, "arguments": [list(a) for a in FACTS.arguments],
        "scratch_pointers": 2, "multiple_of_16": ["x_ptr", "rows"], "constants": {"BLOCK": 8}, "threads": 128,
        "shared_bytes": 0, "sha256": hashlib.sha256(cubin).hexdigest(),
    }  # fmt: skip
    (place / f"{name}.cubin").write_bytes(cubin)
    (place / f"{name}.json").write_text(json.dumps(data | changes))


def test_arguments_in_order_with_their_types():
    packed = arguments(FACTS, dict(reversed(GOOD.items())))
    assert [type(value) for value in packed] == [
        ctypes.c_uint64, ctypes.c_int32, ctypes.c_int32, ctypes.c_float, ctypes.c_uint64, ctypes.c_uint64,
    ]  # fmt: skip
    assert [value.value for value in packed] == [0x7F0000000010, 7, 32, 1.5, 0, 0]
    assert tuple(ctypes.sizeof(value) for value in packed) == FACTS.sizes


def test_the_library_that_launches_takes_them():
    """cuda-core's own packing, which needs no driver, keeps every value."""
    handler = pytest.importorskip("cuda.core._kernel_arg_handler", reason="cuda-core is not installed")
    packed = arguments(FACTS, GOOD)
    holder = handler.ParamHolder(packed)
    addresses = (ctypes.c_void_p * len(packed)).from_address(holder.ptr)
    assert [type(v).from_address(at).value for v, at in zip(packed, addresses, strict=True)] == [
        v.value for v in packed
    ]


def test_an_array_gives_its_address():
    class Array:
        __cuda_array_interface__ = {"data": (4096, False), "shape": (1,), "typestr": "<f4", "version": 3}  # noqa: RUF012

    assert arguments(FACTS, GOOD | {"x_ptr": Array()})[0].value == 4096


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (GOOD | {"x_ptr": 8}, ShapeError),
        (GOOD | {"rows": 17}, ShapeError),
        (GOOD | {"count": 2**31}, ShapeError),
        (GOOD | {"more": 1}, InternalError),
        ({"x_ptr": 16}, InternalError),
    ],
)
def test_what_the_kernel_was_not_compiled_for_is_refused(values, error):
    with pytest.raises(error, match="move"):
        arguments(FACTS, values)


def test_the_newest_target_of_the_same_major_version_is_taken(tmp_path):
    for architecture in (80, 86, 90):
        write(tmp_path, architecture)
    assert targets(tmp_path) == (80, 86, 90)
    assert [target_for(have, tmp_path) for have in ((8, 0), (8, 6), (8, 9), (9, 0))] == [80, 86, 86, 90]
    for have in ((7, 5), (10, 0)):
        with pytest.raises(ConfigError, match=r"dvgwm\.kernels\.aot --arch"):
            target_for(have, tmp_path)
    with pytest.raises(ConfigError, match="has none"):
        target_for((9, 0), tmp_path / "nothing")


def test_a_kernel_is_read_whole_or_not_at_all(tmp_path):
    write(tmp_path, 90)
    facts, cubin = read_kernel("move", 90, tmp_path)
    assert (facts.sizes, cubin) == (FACTS.sizes, b"\x7fELF")
    with pytest.raises(ConfigError):
        read_kernel("other", 90, tmp_path)
    (tmp_path / "sm_90" / "move.cubin").write_bytes(b"\x7fELG")
    with pytest.raises(BundleCorruptError, match="rebuild"):
        read_kernel("move", 90, tmp_path)
    (tmp_path / "sm_90" / "move.json").write_text("{")
    with pytest.raises(BundleCorruptError, match="damaged"):
        read_kernel("move", 90, tmp_path)


def test_scratch_memory_is_the_first_pointer_behind_the_arguments():
    packed = arguments(FACTS, GOOD, 4096)
    assert [value.value for value in packed] == [0x7F0000000010, 7, 32, 1.5, 4096, 0]
    assert len(arguments(replace(FACTS, scratch_pointers=1), GOOD, 4096)) == 5
    assert len(arguments(replace(FACTS, scratch_pointers=0), GOOD)) == 4


def test_scratch_memory_is_kept_for_a_capture_and_grows():
    given = []

    def allocate(size, stream):
        given.append((size, stream.handle))
        return SimpleNamespace(size=size, handle=4096 * len(given))

    kernels = CudaKernels.__new__(CudaKernels)
    kernels._device, kernels._scratch = SimpleNamespace(allocate=allocate), {}
    first, capturing = SimpleNamespace(handle=7), SimpleNamespace(handle=8)
    facts = replace(FACTS, scratch_bytes=640)
    calls = ((10, first), (3, first), (10, capturing), (11, first))
    assert [kernels._scratch_of(facts, blocks, on) for blocks, on in calls] == [4096, 4096, 4096, 8192]
    assert given == [(6400, 7), (7040, 7)]
    other = replace(facts, name="other")
    assert kernels._scratch_of(other, 1, first) == 12288, "another kernel's may be at work still"


def test_a_sampler_row_becomes_arguments():
    """Without clip, history and noise the general form is the plain one."""
    row = build_sampler(SamplerSpec("ddim_v", 4, guidance=6.0)).steps[1]
    values = affine_step_values(row, 16, 32, None, None, 100, 2)
    assert (values["flags"], values["guidance"], values["limit"], values["a0"], values["b0"]) == (
        1,
        6.0,
        np.inf,
        1.0,
        0.0,
    )
    assert (values["history_ptr"], values["noise_ptr"]) == (16, 16)
    clipped = build_sampler(SamplerSpec("ddim_epsilon", 4, train_steps=100)).steps[0]
    values = affine_step_values(clipped, 16, 32, 48, 64, 100, 1)
    assert (values["flags"], values["limit"]) == (6, 1.0)


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
def test_without_a_gpu_it_says_what_is_missing(tmp_path):
    write(tmp_path, 90)
    with pytest.raises(ConfigError) as caught:
        CudaKernels(folder=tmp_path)
    assert caught.value.log_code in ("CUDA_CORE", "CUDA_DEVICE")


def test_the_folder_is_inside_the_package():
    assert kernel_folder().name == "cubins"
