"""What gets installed, and that a machine without compilers for kernels is told so."""

import shutil
import subprocess
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


def test_entry_points_resolve():
    from dvgwm.runtime import plugins

    assert plugins.names("robots") == ("galaxea_a1",)
    assert plugins.load("robots", "galaxea_a1").name == "galaxea_a1"
    assert plugins.open_backend("fake", None).name == "fake"
    assert callable(plugins.open_arm())


def test_cmake_builds_nothing_and_says_so(tmp_path):
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    empty = tmp_path / "bin"
    empty.mkdir()
    command = [
        cmake,
        "-S",
        str(ROOT),
        "-B",
        str(tmp_path / "build"),
        "-DNVCC=NVCC-NOTFOUND",
        "-DPython3_EXECUTABLE=/bin/false",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": f"{empty}:/usr/bin:/bin"})
    assert "building no kernels" in done.stdout or "building none" in done.stdout, done.stdout + done.stderr
    assert not list((tmp_path / "build").rglob("*.cubin"))


def test_the_readmes_first_two_bash_blocks_are_the_two_commands():
    blocks = [block.split("```")[0] for block in (ROOT / "README.md").read_text().split("```bash\n")[1:]]
    assert "dvgwm-runtime --robot galaxea_a1" in blocks[0]
    assert "pip install" in blocks[0]
    assert "python -m pytest" in blocks[1]
