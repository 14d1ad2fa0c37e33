"""What a loop tells of itself on disk: losses and figures as JSON lines, the same for TensorBoard, pictures to look at."""

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from dvgwm.runtime.types import ImageArray

LOSSES, WATCHED = "losses.jsonl", "watched.jsonl"


class Log:
    """The log of the loop that writes under ``out`` and has done ``step`` steps; lines beyond them are dropped."""

    def __init__(self, out: Path, step: int) -> None:
        self._out, self._board = out, SummaryWriter(str(out / "log"), purge_step=step)
        for path in (out / LOSSES, out / WATCHED):
            if path.is_file():
                lines = path.read_text("utf-8").splitlines(True)
                path.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), "utf-8")

    def loss(self, step: int, loss: float, samples_per_s: float, elapsed_s: float) -> None:
        """Note the mean loss since the last one."""
        self._board.add_scalar("loss", loss, step)
        self._board.add_scalar("samples_per_s", samples_per_s, step)
        self._append(LOSSES, {"step": step, "loss": loss, "elapsed_s": round(elapsed_s, 1)})

    def watched(self, step: int, figures: Mapping[str, float], pictures: Mapping[str, ImageArray]) -> None:
        """Note the figures of held-out clips, and keep their pictures."""
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        for name, picture in pictures.items():
            self._board.add_image(name, picture, step, dataformats="HWC")
            path = self._out / "pictures" / f"{name}_{step:07d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
        self._append(WATCHED, {"step": step, **figures})

    def close(self) -> None:
        """Write what is still held back."""
        self._board.close()

    def _append(self, name: str, row: Mapping[str, float]) -> None:
        with (self._out / name).open("a") as file:
            file.write(json.dumps(row) + "\n")
