"""Every kernel compiled for every GPU, without one: the machine code's own account."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
triton = pytest.importorskip("triton", reason="the kernels extra is not installed")

from dvgwm.kernels.aot import variants
from dvgwm.kernels.variant import ARCHITECTURES, FP8_ARCHITECTURES
from dvgwm.runtime.backends.cubins import read_kernel

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.thorough]

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MATRIX = {
    80: r"\b[HI]MMA\b",
    86: r"\b[HI]MMA\b",
    89: r"\b[HIQ]MMA\b",
    90: r"\b[HIQ]GMMA\b",
    100: r"\bUTC[HIQ]MMA\b",
    120: r"\b[HIQ]MMA\b",
}
"""The matrix instructions of each target in its machine code: wgmma is HGMMA, IGMMA, QGMMA; tcgen05 is UTC*MMA."""
SHARED_MEMORY_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""The most for one block (CUDA programming guide, compute capabilities)."""
MOST_INSTRUCTIONS = {
    r"quantise_bf16_\d+_gelu": 12,
    r"quantise_bf16_\d+": 7,
    r"modulate_bf16_\d+_first": 22,
    r"modulate_bf16_\d+": 29,
    r"modulate_bf16_\d+_first_8bit": 26,
    r"modulate_bf16_\d+_8bit": 31,
}
"""Instructions for one number of a row, by name: these kernels are bound by them (before rows had parts: 33, 13, 32, 40, 41
and 51)."""
OLDER = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9)
"""True if this Triton is older than the one of the tiles and the shipped cubins."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the folder of all cubins, built cold."""
    out = tmp_path_factory.mktemp("cubins")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "dvgwm.kernels.aot", "--out", str(out), "--ptx"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return out


def kernels(folder, architecture):
    return [read_kernel(variant.name, architecture, folder)[0] for variant in variants(architecture)]


@cache
def sass(folder, architecture, name):
    """Return the machine code of a cubin, without the analysis of its data flow."""
    command = [TOOLS / "nvdisasm", "-c", "-ndf", folder / f"sm_{architecture}" / f"{name}.cubin"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(code):
    """Return the instructions of machine code, and the first and last of every loop among them."""
    found, labels, loops = [], {}, []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(found)
        if instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            found.append(instruction[1])
            target = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", instruction[1])
            # The last instruction of a kernel jumps to itself: nothing gets there.
            if target and labels.get(target[1], len(found)) < len(found) - 1:
                loops.append((labels[target[1]], len(found) - 1))
    return [instruction for instruction in found if instruction != "NOP"], loops


def test_all_targets_are_built(built):
    for architecture in ARCHITECTURES:
        names = {path.stem for path in (built / f"sm_{architecture}").glob("*.cubin")}
        assert names == {variant.name for variant in variants(architecture)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(built, architecture):
    """Matrix instructions where there are matrices, nothing spilled to local memory, shared memory within the limit."""
    if OLDER and architecture in (89, 120):
        pytest.skip(f"Triton {triton.__version__} spills a few registers of FP8 attention here, 3.9 does not")
    for facts in kernels(built, architecture):
        code = sass(built, architecture, facts.name)
        assert re.search(r"\bEXIT\b", code), f"{facts.name} has no machine code to look at"
        assert not re.search(r"\b(LDL|STL)\b", code), f"{facts.name} spills registers"
        assert facts.shared_bytes <= SHARED_MEMORY_BYTES[architecture], facts.name
        if "attention" in facts.name:
            assert re.search(MATRIX[architecture], code), f"{facts.name} multiplies without matrix units"
        if facts.name.startswith("affine_step_fp32"):
            assert re.search(r"\bLDG\.E\.(128|64)", code), f"{facts.name} loads single numbers"
        if facts.name.startswith(("modulate", "quantise")):
            assert not re.search(r"\bLDG\.E\.[US](8|16)", code), f"{facts.name} loads single numbers"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_eight_bits_are_multiplied_as_such(built, architecture):
    if OLDER and architecture == 100:
        pytest.skip(f"Triton {triton.__version__} has no integer matrix instruction for Blackwell, 3.9 has")
    integer, fp8 = {90: ("IGMMA", "QGMMA"), 100: ("UTCIMMA", "UTCQMMA")}.get(architecture, ("IMMA", "QMMA"))
    for facts in kernels(built, architecture):
        code = sass(built, architecture, facts.name)
        if facts.name.startswith("attention_8bit"):
            assert re.search(rf"\b{integer}\b", code)
        if facts.name.startswith("attention_fp8"):
            assert architecture in FP8_ARCHITECTURES
            assert re.search(rf"\b{fp8}\b", code)
            assert not re.search(r"\b([HI]G?MMA|UTC[HI]MMA)\b", code), "both products are of FP8 numbers"
            assert len(re.findall(r"\bI2FP?\b", code)) < 8, "no score is made of an integer"


@pytest.mark.parametrize("architecture", FP8_ARCHITECTURES)
def test_instructions_for_one_number(built, architecture):
    """Rows are straight code, so its length is the cost of one number."""
    counted = 0
    for facts in kernels(built, architecture):
        for name, most in MOST_INSTRUCTIONS.items():
            if re.fullmatch(name, facts.name):
                code, loops = instructions(sass(built, architecture, facts.name))
                assert not loops
                assert 4 < len(code) * facts.threads / facts.constants["D"] < most, facts.name
                counted += 1
    assert counted == 12


@pytest.mark.parametrize(("architecture", "most"), [(89, 540), (90, 225), (120, 280)])
def test_a_fixed_shift_is_fewer_instructions(built, architecture, most):
    """In the loop over keys, of a tile of 128 x 64 by 4 warps (sm_89) or 8; following the maximum costs a quarter more."""

    def in_the_loop(name):
        (loop,) = instructions(sass(built, architecture, name))[1]
        return loop[1] - loop[0] + 1

    fixed, followed = (in_the_loop(f"attention_bf16_d64{end}") for end in ("_fixed", ""))
    assert 100 < fixed < most
    assert followed > 1.25 * fixed
    assert in_the_loop("attention_bf16_d128") > 1.25 * in_the_loop("attention_bf16_d128_fixed")
    if architecture == 90:  # several groups of warps, each with loops
        ours, theirs = (len(instructions(sass(built, 90, f"attention_tma_bf16_d64{end}"))[0]) for end in ("_fixed", ""))
        assert ours < 0.95 * theirs


def test_sums_in_fp8_begin_afresh_with_every_block_on_hopper(built):
    """Both products of whole blocks and of the last one begin at zero; in 16 bits products with values add to earlier sums."""

    def begun(name):
        products = re.findall(r"wgmma\.mma_async[^;]*;", (built / "sm_90" / f"{name}.ptx").read_text())
        return sum(bool(re.search(r"\}, (\{[^}]*\}|%rd\d+), %rd\d+, 0, 1, 1\b", product)) for product in products)

    assert [begun(f"attention_fp8_d{width}") for width in (64, 128)] == [4, 4]
    assert begun("attention_bf16_d64") == 2, "control"


def test_loads_have_warps_of_their_own_on_hopper(built):
    """Three groups of warps; the loading one gives registers up; the launcher is told of all of them."""
    for name in ("attention_tma_bf16_d64", "attention_tma_fp16_d64", "attention_tma_bf16_d64_fixed"):
        facts = read_kernel(name, 90, built)[0]
        code = sass(built, 90, name)
        assert (facts.threads, facts.scratch_pointers) == (384, 2)
        assert facts.scratch_bytes % 128 == 0, "a descriptor is 128 bytes, and begins at a multiple of that"
        assert facts.scratch_bytes > 0
        assert len(re.findall(r"\bUTMALDG", code)) >= 3, "queries, keys and values are moved in blocks"
        assert "USETMAXREG" in code
    plain = read_kernel("attention_bf16_d64", 90, built)[0]
    assert (plain.threads, plain.scratch_bytes) == (256, 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_launchers_arguments_are_the_cubins(built, architecture):
    """Sizes of parameters as the cubin's own header states them."""
    for facts in kernels(built, architecture):
        path = built / f"sm_{architecture}" / f"{facts.name}.cubin"
        header = subprocess.run([TOOLS / "cuobjdump", "--dump-elf", path], capture_output=True, text=True).stdout
        seen = {int(o, 16): int(s, 16) for o, s in re.findall(r"Ordinal : (0x\w+).*?Size    : (0x\w+)", header)}
        assert tuple(seen[index] for index in sorted(seen)) == facts.sizes, facts.name
        assert f".text.{facts.function}" in header


def test_a_driver_for_cuda_13_can_compile_the_ptx(built):
    for path in built.glob("sm_*/*.ptx"):
        major, minor = re.search(r"^\.version (\d+)\.(\d+)", path.read_text(), re.M).groups()
        assert (int(major), int(minor)) <= (9, 0), path


def test_the_facts_name_what_built_them(built):
    facts = json.loads((built / "sm_90" / "attention_bf16_d64.json").read_text())
    assert facts["triton"] == triton.__version__
    assert facts["constants"]["D"] == 64
    assert set(facts["multiple_of_16"]) >= {"query_ptr", "query_s"}


@pytest.mark.parametrize("words", [["--arch", "75"], ["--arch", "90"], []], ids=["unknown", "no_out", "nothing"])
def test_bad_usage_says_what_is_wanted(words):
    command = [sys.executable, "-m", "dvgwm.kernels.aot", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_interpreter_cannot_compile(tmp_path):
    command = [sys.executable, "-m", "dvgwm.kernels.aot", "--arch", "90", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert done.returncode == 2
    assert done.stderr.startswith("E2 KERNELS_INTERPRET")
