"""What the commands of `dvgwm-train` do beside training: fit codecs, imagine, collect weights, measure the upper bound."""

from pathlib import Path
from typing import Any

from dvgwm.models.sizes import LinearCodecSize
from dvgwm.models.weights import load_parts, load_weights, save_parts, save_tensors
from dvgwm.robots.sim.tasks import TASKS
from dvgwm.runtime.bundle.disk import read_bundle
from dvgwm.runtime.config.plugins import open_backend
from dvgwm.runtime.errors import ConfigError
from dvgwm.runtime.pipeline import Pipeline
from dvgwm.runtime.record.reader import open_dataset

from .arrays import open_arrays
from .cascade import Cascade
from .census import Census, split
from .codec import codec_quality, fit_codec
from .config import Run
from .imagine import record_imagined
from .loop import WEIGHTS
from .parts import KINDS, Count, imagined, networks_of, networks_with_codecs, take_up, tokens_of, weights_file
from .upper_bound import act_in_torch, acting_stage, summary, upper_bound

CODEC_TESTED = 100
"""Held-out episodes on which a codec is judged."""


def fit_codecs(run: Run, report: Count) -> dict[str, Any]:
    """Fit the linear codecs of the preset's two sizes, and return how well they keep held-out clips."""
    preset = run.preset
    if not isinstance(preset.codec, LinearCodecSize):
        raise ConfigError("CODEC_KIND", f"{preset.name} has a VAE, from its checkpoint; wanted a linear codec")
    arrays, (learned, held) = open_arrays(run.data.path, run.data.camera), split(open_dataset(run.data.path))
    tested = held[:: max(1, len(held) // CODEC_TESTED)]
    figures: dict[str, Any] = {}
    for number, (name, size) in enumerate((("low_codec", preset.low), ("codec", preset.high))):
        report(number, 2)
        codec = fit_codec(preset, size, run.codec, arrays, learned)
        save_tensors(codec.state_dict(), run.out / name / WEIGHTS)
        figures[name] = codec_quality(preset, size, codec, arrays, tested)
    report(2, 2)
    return figures


def imagine(run: Run, episodes: int, report: Count) -> Census:
    """Write what the trained cascade imagines of ``episodes`` demonstrations, as a data set."""
    networks = networks_with_codecs(run)
    for name in ("waypoints", "preview", "refiner"):
        take_up(run, networks, name)
    return record_imagined(run, Cascade(run, networks, tokens_of(run.preset)), imagined(run), episodes, report)


def collect(run: Run, folder: Path) -> tuple[str, ...]:
    """Write the networks that the run has trained into ``folder``, in half precision, and return their names.

    What a later part made goes before what it started from. Raises `ConfigError` where nothing is trained.
    """
    networks, names = networks_of(run), []
    for name, codec in (("low_codec", networks.low_codec), ("codec", networks.codec)):
        if (run.out / name / WEIGHTS).is_file():
            load_weights(codec, weights_file(run, name))
            names.append(name)
    for name, kind in KINDS.items():
        if (run.out / name / WEIGHTS).is_file():
            take_up(run, networks, name)
            names += [part for part in kind.networks if part in networks.parts()]
    if not names:
        raise ConfigError("WEIGHTS_MISSING", f"{run.out} has nothing trained yet; begin with `dvgwm-train policy`")
    collected = tuple(dict.fromkeys(names))
    save_parts(networks, collected, folder)
    return collected


def measure_upper_bound(
    run: Run, episodes: int, seed: int, weights: Path | None, bundle: Path | None, report: Count
) -> dict[str, Any]:
    """Return success and position error of the trained policy, or of a bundle's, on true frames."""
    if bundle is not None:
        opened = read_bundle(bundle)
        with Pipeline(opened, open_backend(opened.manifest.backend, None)) as pipeline:
            act = acting_stage(next(stage for stage in pipeline.stages if stage.spec.kind == "act"))
            outcomes = upper_bound(run.preset, act, list(TASKS), episodes, seed, report)
        return summary(outcomes) | {"bundle": str(bundle), "seed": seed}
    networks = networks_of(run)
    if weights is None:
        take_up(run, networks, "policy")
    else:
        load_parts(networks, weights)
    outcomes = upper_bound(run.preset, act_in_torch(run.preset, networks), list(TASKS), episodes, seed, report)
    return summary(outcomes) | {"weights": str(weights or run.out / "policy"), "seed": seed}
