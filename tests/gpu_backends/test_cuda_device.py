"""What a GPU is asked for, held against cuda-core's own classes and signatures; the answers are made up."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")

from cuda.bindings import driver
from cuda.core.graph import Graph, GraphBuilder

from dvgwm.runtime.backends import cuda_device
from dvgwm.runtime.backends.cuda import CudaKernels
from dvgwm.runtime.errors import ConfigError, EngineLostError
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec

GIVES = {
    "create_stream": core.Stream, "create_graph_builder": GraphBuilder, "complete": Graph, "allocate": core.Buffer,
    "record": core.Event,
}  # fmt: skip
FACTS = {
    "name": "NVIDIA H100", "compute_capability": SimpleNamespace(major=9, minor=0), "handle": 4711, "device_id": 0
}  # fmt: skip


class Core:
    """An object of one of cuda-core's classes: what the class has not, or does not take, it refuses."""

    def __init__(self, real, calls):
        self._real, self._calls = real, calls

    def __getattr__(self, name):
        member = inspect.getattr_static(self._real, name)
        if not callable(getattr(self._real, name)):
            return FACTS[name]
        signature = inspect.signature(getattr(self._real, name))

        def call(*arguments, **named):
            signature.bind(*([None] if "self" in signature.parameters else []), *arguments, **named)
            self._calls.append((f"{self._real.__name__}.{name}", arguments, named))
            return Core(GIVES[name], self._calls) if name in GIVES else None

        assert member is not None
        return call

    def __sub__(self, other):
        assert "__sub__" in dir(self._real)
        return 2.5


@pytest.fixture
def calls():
    return []


@pytest.fixture
def device(calls, monkeypatch):
    """A GPU whose driver answers every call with success."""
    monkeypatch.setattr(cuda_device, "Device", lambda index: Core(core.Device, calls))
    return cuda_device.CudaDevice()


def answer(monkeypatch, calls, status=driver.CUresult.CUDA_SUCCESS):
    """Have the driver's copies noted, and answered with ``status``."""

    def noted(name):
        signature = inspect.signature(getattr(driver, name))

        def call(*arguments):
            signature.bind(*arguments)
            calls.append((name, arguments, {}))
            return (status,)

        return call

    names = ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync")
    monkeypatch.setattr(
        cuda_device, "driver", SimpleNamespace(CUresult=driver.CUresult, **{name: noted(name) for name in names})
    )


def test_memory_copies_and_waiting_are_on_one_stream(device, calls, monkeypatch):
    answer(monkeypatch, calls)
    array = np.arange(6, dtype=np.float32)
    memory = device.allocate(24)
    device.write(memory.address, array)
    device.copy(1024, memory.address, 24)
    device.read(array, memory.address)
    assert [name for name, *_ in calls] == [
        "Device.set_current",
        "Device.create_stream",
        "Device.allocate",
        "cuMemcpyHtoDAsync",
        "cuMemcpyDtoDAsync",
        "cuMemcpyDtoHAsync",
        "Stream.sync",
    ]
    assert [arguments for name, arguments, _ in calls if name.startswith("cuMemcpy")] == [
        (4711, array.ctypes.data, 24, 4711),
        (1024, 4711, 24, 4711),
        (array.ctypes.data, 4711, 24, 4711),
    ]


def test_another_stream_is_waited_for_by_its_handle(device, calls, monkeypatch):
    inspect.signature(core.Stream.from_handle).bind(7)
    monkeypatch.setattr(cuda_device, "Stream", SimpleNamespace(from_handle=lambda handle: ("stream", handle)))
    device.follow(7)
    assert calls[-1] == ("Stream.wait", (("stream", 7),), {})


def test_a_copy_that_fails_is_told(device, calls, monkeypatch):
    answer(monkeypatch, calls, driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
    with pytest.raises(EngineLostError, match="cannot copy to the GPU: CUDA_ERROR_ILLEGAL_ADDRESS"):
        device.write(1024, np.zeros(1))


def test_what_is_captured_is_built_once_and_launched_on_the_stream(device, calls):
    calls.clear()
    replay = device.capture(lambda: calls.append(("work", (), {})))
    replay()
    replay()
    assert [name for name, *_ in calls] == [
        "Stream.create_graph_builder",
        "GraphBuilder.begin_building",
        "work",
        "GraphBuilder.end_building",
        "GraphBuilder.complete",
        "Graph.launch",
        "Graph.launch",
    ]
    assert all(isinstance(arguments[0], Core) for name, arguments, _ in calls if name == "Graph.launch")


def test_a_capture_that_fails_is_ended(device, calls):
    with pytest.raises(ZeroDivisionError):
        device.capture(lambda: 1 / 0)
    assert calls[-1][0] == "GraphBuilder.end_building"


def test_time_is_that_of_events_which_keep_it(device, calls):
    start, end = device.mark(), device.mark()
    assert device.elapsed(start, end) == pytest.approx(2.5e-3)
    assert calls[-1][0] == "Event.sync", "the second one has happened by then"
    records = [named["options"] for name, _, named in calls if name == "Stream.record"]
    assert [type(options) for options in records] == [core.EventOptions] * 2
    assert all(options.timing_enabled for options in records)


@pytest.mark.parametrize(("kernel", "said"), [((580, 95, 5), "580.95.5"), (None, "CUDA 13.0")])
def test_the_driver_is_told_with_or_without_its_management_library(device, monkeypatch, kernel, said):
    def kernel_mode():
        if kernel is None:
            raise RuntimeError("no libnvidia-ml.so")
        return kernel

    monkeypatch.setattr(cuda_device.system, "get_kernel_mode_driver_version", kernel_mode)
    monkeypatch.setattr(cuda_device.driver, "cuDriverGetVersion", lambda: (driver.CUresult.CUDA_SUCCESS, 13000))
    assert device.facts == {"gpu": "NVIDIA H100", "capability": "9.0", "driver": said}


def test_without_a_gpu_it_says_so(monkeypatch):
    def none(index):
        raise RuntimeError("CUDA_ERROR_NO_DEVICE")

    monkeypatch.setattr(cuda_device, "Device", none)
    with pytest.raises(ConfigError, match="wanted GPU 0, cannot open it: CUDA_ERROR_NO_DEVICE"):
        cuda_device.CudaDevice()


class Launches(CudaKernels):
    """Kernels that are not launched."""

    def __init__(self):
        self.launched = []

    def facts(self, name):
        return SimpleNamespace(constants={"BLOCK": {"bridge_fp32": 512, "affine_step_fp32_fp32": 1024}[name]})

    def launch(self, name, grid, values, stream):
        self.launched.append((name, grid, values, stream))


def test_the_device_launches_the_kernels_on_its_stream(device, monkeypatch):
    kernels = Launches()
    monkeypatch.setattr(cuda_device, "CudaKernels", lambda index: kernels)
    step = build_sampler(SamplerSpec("euler_flow", 4)).steps[0]
    device.affine_step(step, 16, 32, None, None, 5000, 2, ("fp32", "fp32"))
    device.bridge(16, 32, 48, 64, 80, 0.8, 0.6, (3, 16, 4, 6, 3, 8, 12), "fp32")
    (step_name, step_grid, step_values, *_), (name, grid, values, _) = kernels.launched
    assert (step_name, step_grid, step_values["count"]) == ("affine_step_fp32_fp32", (5, 1, 1), 5000)
    assert (name, grid, values["to_width"], values["output_ptr"]) == ("bridge_fp32", (1, 48, 1), 12, 16)
    assert [stream for *_, stream in kernels.launched] == [4711, 4711]


def test_a_bridge_launched_without_triton_is_what_the_operator_launches():
    torch = pytest.importorskip("torch", reason="the export extra is not installed")
    pytest.importorskip("triton", reason="the kernels extra is not installed")
    from dvgwm.kernels.bridge import launch_bridge, variants

    latents, noise = torch.zeros(1, 3, 16, 5, 7), torch.zeros(1, 4, 16, 40, 60)
    scale, shift = torch.ones(16), torch.zeros(16)
    launch, output = launch_bridge(latents, scale, shift, noise, 0.8, 0.6)
    kernels = Launches()
    arrays = [tensor.data_ptr() for tensor in (output, latents, scale, shift, noise)]
    kernels.bridge(*arrays, 0.8, 0.6, (3, 16, 5, 7, 4, 40, 60), "fp32", 0)
    assert kernels.launched[0][:3] == launch.shipped(variants(90))
