"""One picture of the rows: every setting's plan, stage by stage, beside the paper's, and attention's rate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .rows import read
from .setting import Setting

STAGES = ("preview", "refine", "decode")


def draw(
    file: Path, found: tuple[Setting, ...], gpu: object, preset: str, measured: Mapping[str, float]
) -> Path | None:
    """Write FILE.png and return its path, None where there is nothing to draw it with.

    ``measured`` is what a plan took through the product, by setting.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    _plans(left, found, measured)
    _attention(right, attention_rates(file, gpu, preset))
    figure.suptitle(f"{preset} on {gpu or 'no GPU: a trial of the code'}, seeded random weights")
    path = file.with_suffix(".png")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _plans(axes: Any, found: tuple[Setting, ...], measured: Mapping[str, float]) -> None:
    names = [setting.name for setting in found]
    bottom = [0.0] * len(found)
    for stage in STAGES:
        taken = [getattr(setting, f"{stage}_s") or 0.0 for setting in found]
        axes.barh(names, taken, left=bottom, label=stage)
        bottom = [before + more for before, more in zip(bottom, taken, strict=True)]
    for setting, total in zip(found, bottom, strict=True):
        product = f" ({measured[setting.name]:.3g} s through the product)" if setting.name in measured else ""
        axes.annotate(f" {total:.3g} s{product}", (total, setting.name), va="center")
        if setting.floor_s is not None:
            axes.plot([setting.floor_s], [setting.name], "k|", markersize=14)
    axes.set(title="one plan, stage by stage; | is the floor of preview and refiner", xlabel="seconds")
    axes.margins(x=0.3)
    axes.invert_yaxis()
    if found:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False)


def _attention(axes: Any, rates: Mapping[str, Mapping[str, float]]) -> None:
    for index, (label, found) in enumerate(rates.items()):
        axes.plot(list(found), [rate / 1e12 for rate in found.values()], "o", color=f"C{index}", label=label)
    axes.set(title="attention" if rates else "attention: not measured yet", ylabel="TFLOP/s", ylim=(0, None))
    axes.tick_params("x", rotation=30)
    if rates:
        axes.legend()


def attention_rates(file: Path, gpu: object, preset: str) -> dict[str, dict[str, float]]:
    """Return the rate of every variant of attention by shape, and that of each kernel's best tile."""
    rates: dict[str, dict[str, float]] = {}
    best: dict[tuple[str, str], tuple[float, str]] = {}
    for row in read(file):
        if row.get("gpu") == gpu and row.get("preset") == preset and row["part"] == "attention" and row.get("rate"):
            shape, *tiled = str(row["name"]).removeprefix("attention ").split()
            if tiled:
                best[shape, tiled[0]] = max(best.get((shape, tiled[0]), (0.0, "")), (row["rate"], row["variant"]))
            else:
                rates.setdefault(shape, {})[row["variant"]] = row["rate"]
    for (shape, kind), (rate, tile) in best.items():
        rates.setdefault(shape, {})[f"{kind} {tile}"] = rate
    return rates
