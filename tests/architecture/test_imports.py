"""The permitted imports, proven in fresh interpreters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "triton", "onnxruntime", "mujoco", "av", "tensorrt", "scipy")


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import dvgwm.runtime",
        "import dvgwm.runtime.cli",
        "import dvgwm.runtime.pipeline, dvgwm.runtime.loop, dvgwm.runtime.bundle.disk",
        "from dvgwm.runtime.config.plugins import open_backend; open_backend('fake', None)",
        "import dvgwm.robots",
        "import dvgwm.robots.galaxea_a1",
        "import dvgwm.kernels",
    ],
)
def test_importing_loads_no_engine_library_and_no_torch(statement):
    assert not loaded_by(statement) & set(HEAVY)


def test_gate_and_limits_need_the_standard_library_only():
    assert "numpy" not in loaded_by("import dvgwm.robots.gate, dvgwm.robots.limits")


def test_importing_the_runtime_imports_nothing_else():
    more = loaded_by("import dvgwm.runtime") - loaded_by("pass")
    assert more - set(sys.stdlib_module_names) == {"dvgwm"}


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_each_backend_file_imports_its_own_library_only():
    own = {
        "onnx": {"onnxruntime"},
        "onnx_cuda": {"onnxruntime"},
        "torch": {"torch"},
        "tensorrt": {"tensorrt"},
    }
    own |= {"cuda.py": {"cuda"}, "cuda_device.py": {"cuda"}}
    backends = ROOT / "runtime" / "backends"
    for path in backends.rglob("*.py"):
        assert imports_of(path) & {*HEAVY, "cuda"} <= own.get(path.relative_to(backends).parts[0], set()), path


def test_no_module_of_export_bears_a_librarys_name():
    """`python export/build_engines.py` puts export/ first on the path."""
    taken = {"onnx", "tensorrt", "torch", "numpy", "types", "json", "runtime", "copy", "logging"}
    assert not {path.stem for path in (ROOT / "export").glob("*.py")} & taken


def test_nothing_is_unpickled_at_run_time():
    for folder in ("runtime", "robots"):
        for path in (ROOT / folder).rglob("*.py"):
            names = imports_of(path)
            assert not names & {"pickle", "dill", "joblib", "shelve"}, path
            assert "allow_pickle=True" not in path.read_text(), path


def test_nobody_imports_a_folder_by_its_bare_name():
    """`import runtime` works in a checkout and nowhere else."""
    ours = {"runtime", "robots", "models", "training", "export", "kernels"}
    for folder in (*ours, "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not imports_of(path) & ours, path


@pytest.mark.torch
def test_without_triton_the_operators_run_as_their_twins():
    pytest.importorskip("torch", reason="the export extra is not installed")
    script = (
        "import sys; sys.modules['triton'] = None; import torch;"
        "from dvgwm.kernels.quantise import quantise; from dvgwm.kernels.attention import attention;"
        "from dvgwm.runtime.backends.torch import open_backend;"
        "assert quantise(torch.ones(1, 2, 8), True)[0].dtype == torch.float8_e4m3fn;"
        "q = torch.randn(1, 2, 5, 64); assert attention(q, q, q, 0.125, None).shape == (1, 5, 2, 64);"
        "from dvgwm.kernels import aot; assert aot.main(['--out', 'nowhere']) == 2"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("E2 KERNELS_TRITON")
