"""What gets installed, and that a machine without compilers for kernels is told so."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_folder_is_mapped_typed_and_importable_by_its_namespace():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    mapped = project["tool"]["scikit-build"]["wheel"]["packages"]
    assert mapped == {
        f"dvgwm/{name}": name for name in ("models", "training", "export", "kernels", "runtime", "robots")
    }
    for folder in mapped.values():
        assert (ROOT / folder / "py.typed").is_file()
        assert (ROOT / folder / "__init__.py").is_file()


def test_every_machine_takes_the_wheel():
    """What `.ci/run` builds is py3-none-any: cubins are for GPUs, and nothing is compiled for a host."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]
    assert (settings["py-api"], settings["platlib"]) == ("py3", False)
    assert "LANGUAGES NONE" in (ROOT / "CMakeLists.txt").read_text()


def test_entry_points_resolve():
    from dvgwm.robots.arm import open_arm
    from dvgwm.runtime import entries
    from dvgwm.runtime.config import plugins

    assert entries.names("robots") == ("franka", "galaxea_a1", "ur7e")
    assert plugins.load_robot("galaxea_a1").name == "galaxea_a1"
    assert plugins.open_backend("fake", None).name == "fake"
    assert entries.load("arm", "open_arm") is open_arm


def cmake(tmp_path, *options):
    program = shutil.which("cmake")
    if program is None:
        pytest.skip("cmake is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    for words in (["-S", str(ROOT), "-B", str(tmp_path / "build"), *options], ["--build", str(tmp_path / "build")]):
        done = subprocess.run([program, *words], capture_output=True, text=True, env=environment, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        yield done.stdout


def test_without_triton_cmake_compiles_nothing_and_says_so(tmp_path):
    configured, _ = cmake(tmp_path, "-DPython3_EXECUTABLE=/bin/false")
    assert "compiling no kernels" in configured
    assert not list((tmp_path / "build").rglob("*.cubin"))


@pytest.mark.thorough
@pytest.mark.torch
@pytest.mark.slow
def test_cmake_compiles_and_installs_the_kernels_as_package_data(tmp_path):
    pytest.importorskip("torch", reason="the export extra is not installed")
    pytest.importorskip("triton", reason="the kernels extra is not installed")
    from dvgwm.kernels.aot import variants
    from dvgwm.runtime.backends.cubins import read_kernel, targets

    list(cmake(tmp_path, f"-DPython3_EXECUTABLE={sys.executable}", "-DDVGWM_ARCHITECTURES=90"))
    install = ["cmake", "--install", str(tmp_path / "build"), "--prefix", str(tmp_path / "site")]
    subprocess.run(install, check=True, capture_output=True)
    folder = tmp_path / "site" / "dvgwm" / "runtime" / "cubins"
    assert targets(folder) == (90,)
    for variant in variants(90):
        facts, cubin = read_kernel(variant.name, 90, folder)
        assert facts.architecture == 90
        assert cubin.startswith(b"\x7fELF")


def test_the_readmes_first_two_bash_blocks_are_the_two_commands():
    blocks = [block.split("```")[0] for block in (ROOT / "README.md").read_text().split("```bash\n")[1:]]
    assert "dvgwm-runtime --robot galaxea_a1" in blocks[0]
    assert "pip install" in blocks[0]
    assert "python -m pytest" in blocks[1]
