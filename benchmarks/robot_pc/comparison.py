"""The proof's comparisons of numbers: kernels, arrays of other libraries, every engine, whole plans."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from bench import Found, ProvenBundle

from dvgwm.export.parity import ParityError, distances, gate_of, judge, tolerance
from dvgwm.export.scenes import drawn
from dvgwm.runtime.backends import resample
from dvgwm.runtime.backends.backend import Backend
from dvgwm.runtime.backends.compiling import GraphSource
from dvgwm.runtime.bundle.disk import Bundle
from dvgwm.runtime.compiled import sources
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.sampler import advance
from dvgwm.runtime.samplers.rows import build_sampler
from dvgwm.runtime.samplers.spec import SamplerSpec

FLOAT32 = ("frame_encoder.onnx", "policy.onnx", "waypoints.onnx")
"""Graphs that no precision lowers (`models.precision.ALWAYS_FLOAT32`, which would want torch here)."""


def kernels(bench: ProvenBundle) -> Found:
    """Hold the shipped kernels between engines against their numpy twins."""
    backend, rng = bench.open(bench.backend), np.random.default_rng(0)
    shape, worst = (1, 3, 16, 30, 45), 0.0
    for spec in (SamplerSpec("ddim_v", 4, 6.0), SamplerSpec("dpmpp_2m", 4, 6.0), SamplerSpec("euler_flow", 4)):
        for step in build_sampler(spec).steps:
            state, history, noise = (rng.standard_normal(shape, np.float32) for _ in range(3))
            velocity = rng.standard_normal((1 + (step.guidance != 1.0), *shape[1:]), np.float32)
            there = [backend.upload(array) for array in (state, velocity, history, noise)]
            backend.affine_step(step, *there)
            advance(step, state, velocity, history, noise)
            worst = max(worst, float(np.abs(backend.download(there[0]) - state).max()))
    latents, noise = rng.standard_normal((1, 2, 16, 8, 12), np.float32), rng.standard_normal(shape, np.float32)
    scale, shift = (rng.standard_normal(16).astype(np.float32) for _ in range(2))
    made = backend.bridge(backend.upload(latents), scale, shift, backend.upload(noise), 0.8, 0.6)
    bridged = float(np.abs(backend.download(made) - resample.bridge(latents, scale, shift, noise, 0.8, 0.6)).max())
    facts = {"affine_step_max_abs": worst, "bridge_max_abs": bridged}
    return facts, max(worst, bridged) < 1e-4, f"affine_step {worst:.1e}, bridge {bridged:.1e} from numpy"


def arrays(bench: ProvenBundle) -> Found:
    """Give the backend arrays of other libraries, as far as they are installed, and them its own."""
    backend, values = bench.open(bench.backend), np.arange(12, dtype=np.float32).reshape(3, 4)
    found = {}
    for name, take in {"pycuda": _by_pycuda, "cupy": _by_cupy, "torch": _by_torch}.items():
        if find_spec(name) is not None:
            found[name] = take(backend, values)
    told = ", ".join(f"{name} {'both ways' if fine else 'NOT the same'}" for name, fine in found.items())
    return {"libraries": found}, all(found.values()), told or "none of pycuda, cupy, torch is installed: nothing to try"


def _by_pycuda(backend: Backend, values: Any) -> bool:
    import pycuda.autoprimaryctx  # noqa: F401 (the context that cuda-core has, too)
    from pycuda.gpuarray import GPUArray, to_gpu

    ours = backend.upload(values)
    theirs = GPUArray(ours.shape, np.float32, gpudata=ours.address)
    return bool((backend.download(to_gpu(values)) == values).all() and (theirs.get() == values).all())


def _by_cupy(backend: Backend, values: Any) -> bool:
    import cupy

    there = cupy.asarray(values)
    back = cupy.asnumpy(cupy.asarray(backend.upload(values)))
    return bool((backend.download(there) == values).all() and (back == values).all())


def _by_torch(backend: Backend, values: Any) -> bool:
    import torch

    if not torch.cuda.is_available():
        return True
    back = torch.as_tensor(backend.upload(values), device="cuda").cpu().numpy()
    return bool((backend.download(torch.from_numpy(values).cuda()) == values).all() and (back == values).all())


def engines(bench: ProvenBundle) -> Found:
    """Hold every engine against its graph in ONNX Runtime on the CPU, at random inputs; other inputs are the control."""
    backend = bench.open(bench.backend)
    return compared(bench, bench.bundle, backend, bench.engines(backend))


def compared(bench: ProvenBundle, bundle: Bundle, backend: Backend, compiled: Mapping[str, Path]) -> Found:
    exact, found, wrong = bench.open("onnx"), {}, []
    for source in sources(bundle, bundle.manifest.pipeline):
        file = source.spec.file
        limits = gate_of("float32" if file in FLOAT32 else bundle.manifest.precision)
        given = [_drawn(source, seed) for seed in (1, 2)]
        expected = _outputs(exact, source.path, source, given[0])
        got, other = (_outputs(backend, compiled[file], source, each) for each in given)
        for dtype in dict.fromkeys(str(array.dtype) for array in expected):
            sides = [[each for each in side if str(each.dtype) == dtype] for side in (expected, got, other)]
            name = f"{file} {dtype}"
            apart = distances(sides[0], sides[1])
            found[name] = apart
            try:
                judge(name, apart, distances(sides[0], sides[2]), limits, tolerance(limits, sides[0]))
            except ParityError as error:
                wrong.append(str(error))
    worst = max(found, key=lambda name: found[name]["relative_l2"])
    told = (
        "; ".join(wrong)
        or f"{len(found)} outputs, the furthest {worst} by {found[worst]['relative_l2']:.1e} (relative L2)"
    )
    return {"distances": found}, not wrong, told


def _drawn(source: GraphSource, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    made = {}
    for item in source.spec.inputs:
        shape = source.shapes[item.name]
        if item.dtype in ("uint8", "int64", "int32"):
            made[item.name] = rng.integers(3, 250, shape).astype(item.dtype)
        elif item.name == "time":
            made[item.name] = rng.uniform(0.1, 0.9, shape).astype(np.float32)
        else:
            made[item.name] = rng.standard_normal(shape, np.float32).astype(item.dtype)
    return made


def _outputs(backend: Backend, path: Path, source: GraphSource, inputs: Mapping[str, Any]) -> list[Any]:
    engine = backend.load(path, source.spec)
    try:
        outputs = engine.run({name: backend.upload(array) for name, array in inputs.items()})
        return [backend.download(outputs[item.name]) for item in source.spec.outputs]
    finally:
        engine.close()


def plan(bench: ProvenBundle) -> Found:
    """Hold a whole plan and its actions against ONNX Runtime's on the CPU; another seed's is the control."""
    backend = bench.open(bench.backend)
    with Pipeline(bench.bundle, bench.open("onnx")) as pipeline:
        expected, _ = planned(pipeline, 1)
    with Pipeline(bench.bundle, backend, compiled=bench.engines(backend)) as pipeline:
        (got, again), (other, _) = planned(pipeline, 1), planned(pipeline, 2)
    limits, found, wrong = gate_of(bench.bundle.manifest.precision), {}, []
    for name, array in expected.items():
        found[name] = distances([array], [got[name]])
        try:
            judge(name, found[name], distances([array], [other[name]]), limits, limits.plan)
        except ParityError as error:
            wrong.append(str(error))
    same = all((got[name] == again[name]).all() for name in got)
    wrong += [] if same else ["the same seed gave other bits the second time"]
    actions = found["actions"]["max_abs"]
    told = "; ".join(wrong) or f"actions at most {actions:.1e} of their range apart, the same bits twice"
    return {"distances": found, "same_bits_twice": same}, not wrong, told


def planned(pipeline: Pipeline, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return latents and actions of a plan, and of the same one again."""
    scene, action = drawn(pipeline.manifest, seed), pipeline.manifest.action
    span = np.asarray(action.upper) - np.asarray(action.lower)
    made = []
    for _ in range(2):
        imagined = pipeline.imagine([scene.observation], scene.instruction, seed)
        chunk = pipeline.act(imagined, [scene.observation], scene.instruction)
        made.append(dict(imagined.latents) | {"actions": chunk.actions / span})
    return made[0], made[1]
