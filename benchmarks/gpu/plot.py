"""One picture of the recorded rows: stages by variant, and attention's rate."""

import json
from pathlib import Path

STAGES = ("preview forward", "refine forward", "decode")


def draw(file: Path) -> Path | str:
    """Write FILE.png from the newest row of each stage and variant, and return its path."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return "none (matplotlib is not installed)"
    rows = {}
    for row in map(json.loads, file.read_text().splitlines()):
        if row.get("median_s"):
            rows[row["name"], row.get("variant")] = row
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    variants = [variant for name, variant in rows if name == "preview forward"]
    bottom = dict.fromkeys(variants, 0.0)
    for stage in STAGES:
        taken = [seconds(rows, stage, variant) for variant in variants]
        left.barh(variants, taken, left=[bottom[variant] for variant in variants], label=stage.removesuffix(" forward"))
        bottom = {variant: bottom[variant] + time for variant, time in zip(variants, taken, strict=True)}
    for variant, total in bottom.items():
        left.annotate(f" {total:.3g} s", (total, variant), va="center")
    left.set(title="one plan: 50 + 4 steps and the decode", xlabel="seconds")
    left.margins(x=0.15)
    left.invert_yaxis()
    if variants:
        left.legend()
    shapes = sorted({name for name, _ in rows if name.startswith("attention") and "tile" not in name})
    for index, name in enumerate(shapes):
        found = {variant: row["rate"] / 1e12 for (other, variant), row in rows.items() if other == name}
        found |= best_tiles(file, name)
        right.plot(list(found), list(found.values()), "o", color=f"C{index}", label=name.removeprefix("attention "))
    right.set(title="attention", ylabel="TFLOP/s", ylim=(0, None))
    right.tick_params("x", rotation=30)
    if shapes:
        right.legend()
    gpu = next((row["gpu"] for row in reversed(rows.values())), None)
    figure.suptitle(f"{gpu or 'no GPU: a trial of the code'}, seeded random weights")
    path = file.with_suffix(".png")
    figure.savefig(path, dpi=110)
    return path


def seconds(rows: dict[tuple[str, str | None], dict], stage: str, variant: str) -> float:
    """Return a stage's time in one plan; a decoder has one form of ours and one of diffusers'."""
    if stage == "decode":
        row = rows.get((stage, variant)) or rows.get(
            (stage, "diffusers eager" if "diffusers" in variant else "bfloat16")
        )
        return row["median_s"] if row else 0.0
    row = rows.get((stage, variant))
    return row["stage_s"] if row else 0.0


def best_tiles(file: Path, name: str) -> dict[str, float]:
    """Return TFLOP/s of the best tile of each of our kernels for the attention called ``name``."""
    best: dict[str, float] = {}
    for row in map(json.loads, file.read_text().splitlines()):
        for kind, title in (("kernel", f"{name} tile"), ("8bit", f"{name} 8bit tile"), ("fp8", f"{name} fp8 tile")):
            if row["name"] == title and "rate" in row:
                best[f"{kind}, best tile"] = max(best.get(f"{kind}, best tile", 0.0), row["rate"] / 1e12)
    return best
