"""Shared by the tests of GPU backends: TensorRT's real bindings, and stand-ins for the GPU."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

# pytest imports every test file on its own; this module is shared.
_spec = importlib.util.spec_from_file_location("gpu_doubles", Path(__file__).with_name("doubles.py"))
doubles = importlib.util.module_from_spec(_spec)
sys.modules["gpu_doubles"] = doubles
_spec.loader.exec_module(doubles)


@pytest.fixture(scope="session")
def bindings(tmp_path_factory):
    """NVIDIA's bindings of TensorRT 11."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt_cu13_bindings is not installed")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler makes the empty libraries that the bindings are imported over")
    return doubles.real_bindings(tmp_path_factory.mktemp("nvinfer"))


@pytest.fixture
def rtx_world(rtx_compiler):
    """The double of a machine with an RTX 4090: its bindings are over the real libraries, but no engine runs here."""
    made = doubles.World(rtx_compiler.trt)
    made.device, made.wants = doubles.HostDevice("NVIDIA GeForce RTX 4090", "8.9"), {}
    return made


@pytest.fixture
def world(bindings):
    """The world behind the bindings in a test."""
    made = doubles.World(bindings)
    made.device, made.wants = doubles.HostDevice(), {}
    return made
