"""docs/precision.md and its picture, from the recorded rows."""

import json
from pathlib import Path

TOLD = {
    "float32": "weights in half precision where nothing is lost by it, as it ships",
    "float16": "transformers, VAE and text encoder; policy, frame encoder, waypoints and linear codecs stay in float32 "
    "(`--backend tensorrt_rtx` builds it by default)",
    "bfloat16": "by torch, compiled: ONNX Runtime has no bfloat16 convolution on a CPU",
    "int8_weights": "float16, the linear layers of the transformers' blocks with int8 weights, one scale for each output",
    "int8": "the same, and what inner blocks multiply is in int8 too, smoothed over channels; ranges from recorded scenes",
    "fp8": "the same with E4M3, not smoothed",
}


def newest(file: Path) -> dict[str, dict]:
    """Return the newest recorded row of each precision."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return {row["precision"]: row for row in map(json.loads, lines)}


def write(results: Path, page: Path) -> str:
    """Write the page and its picture; return what was written."""
    found = newest(results)
    rows = {name: found[name] for name in TOLD if name in found}
    picture = draw(rows, page.with_suffix(".png"))
    page.write_text("\n".join([*_page(rows), ""]))
    return f"{page} and {picture}"


INTRODUCTION = """\
# What each precision does to `a1_tiny`

Written by `python benchmarks/precision`. It builds a bundle in each, as `python export/build_engines.py --precision NAME` does,
from the trained weights that ship. All is on a CPU, so it says nothing of speed. Rows: `benchmarks/results/precision.jsonl`.

**Actions and pictures** are compared with float32's, from the same first frame and noise, in {scenes} scenes on layouts that
were neither trained nor calibrated on. A scene's error is the largest over its 48 actions. Only float32 is lossless.
**Success** is of {episodes} episodes in closed loop, seed {seed}, plan time 0: near 90 % its standard error is 3 points.
"""
BETWEEN = """
![the largest error of position in each scene](precision.png)
"""
END = """
PSNR of equal frames is told as 88 dB. Cosines are those of the gates that a bundle passes before it is written, one engine's
run or one plan against torch in float32, for int8 and fp8 on recorded scenes: at least .9999 (float16), .999 (bfloat16, int8),
.99 (fp8) per engine; relative L2 of a plan's latents and actions at most .05, .15 and .3.

## What they are
{kinds}

In 8 bits are queries, keys, values, the projection behind attention, and both feed-forward layers. Modulation, patch, time and
text embedding and the last projection stay as they are, and so do the activations of the first and the last block.
"""
GOALS = """
## Against the goals
int8 weights were to be at most .3 of float32's, and actions within 2 mm and 1 degree. The transformers' are {share:.3f} here
and {large:.3f} in `dvgwm_5b`: what stays in half precision (patch embedding, modulation) is much in networks of 256 and 192
channels. With int8 weights the largest error of any scene is {mm:.2f} mm and {deg:.2f} degrees; 19 of 20 are within
{mm_95:.2f} mm and {deg_95:.2f} degrees.
"""


def _page(rows: dict[str, dict]) -> list[str]:
    some = next(iter(rows.values()))
    sizes = ["precision", "weights, MB", "share of float32", "of the two transformers (`dvgwm_5b`'s, counted)"]
    sizes += ["position, mm: median, 19 of 20, largest", "rotation, degrees", "success"]
    fidelity = [
        "precision",
        "PSNR of 64x96 frames, dB: median, least",
        "of 128x192 frames",
        "cosine: preview",
        "refiner",
    ]
    fidelity += ["low latents", "high latents", "actions"]
    lines = [INTRODUCTION.format(**some), *_table(sizes, [_sizes(name, row) for name, row in rows.items()]), BETWEEN]
    lines += _table(fidelity, [_fidelity(name, row) for name, row in rows.items()])
    lines.append(END.format(kinds="\n".join(f"- `{name}`: {TOLD[name]}." for name in rows)))
    if row := rows.get("int8_weights"):
        mm, deg = row["position_mm"], row["rotation_deg"]
        figures = {"mm": mm["largest"], "mm_95": mm["p95"], "deg": deg["largest"], "deg_95": deg["p95"]}
        lines.append(GOALS.format(share=row["denoiser_share"], large=row["full_size_share"], **figures))
    return lines


def _sizes(name: str, row: dict) -> list[str]:
    stopped = sum(row["stopped"].values())
    return [
        f"`{name}`",
        f"{row['weights_bytes'] / 1e6:.1f}",
        f"{row['share']:.2f}",
        f"{row['denoiser_share']:.3f} ({row['full_size_share']:.3f})",
        _spread(row["position_mm"]),
        _spread(row["rotation_deg"]),
        f"{row['success_rate']:.0%}" + (f" ({stopped} stopped)" if stopped else ""),
    ]


def _fidelity(name: str, row: dict) -> list[str]:
    psnr = [f"{row['psnr_db'][size]['median']:.1f}, {row['psnr_db'][size]['least']:.1f}" for size in ("low", "high")]
    parts = ("preview", "refine", "plan: low_latents", "plan: high_latents", "plan: actions")
    return [f"`{name}`", *psnr, *(_cosine(row["parity"][part]["cosine"]) for part in parts)]


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def _spread(values: dict) -> str:
    return ", ".join(f"{values[name]:.2f}" for name in ("median", "p95", "largest"))


def _cosine(value: float) -> str:
    return f"1 - {1 - value:.0e}" if value < 1 else "1"


def draw(rows: dict[str, dict], path: Path) -> Path | str:
    """Write a picture of every scene's error, a row of dots for each precision, and return its path."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return "no picture (matplotlib is not installed)"
    shown = [name for name in rows if name != "float32"]
    figure, axes = pyplot.subplots(figsize=(10, 0.6 * len(shown) + 1.2), layout="constrained")
    for index, name in enumerate(shown):
        values = rows[name]["each_mm"]
        axes.plot(values, [index] * len(values), "|", markersize=16, color=f"C{index}")
        axes.plot([rows[name]["position_mm"]["median"]], [index], "o", color=f"C{index}")
    axes.axvline(2.0, color="grey", linestyle=":")
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    axes.set(
        xlabel="largest error of position in a scene, mm (dot: median)", xscale="log", ylim=(len(shown) - 0.5, -0.5)
    )
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(shown)), shown)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return path
