"""What a person at a terminal is shown and asked before an arm moves."""

import sys
import termios
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..errors import ConfigError, printable
from ..types import Check, ImageArray

SHOWN, COLUMNS = 4, 24
"""How many frames of a plan are drawn in the terminal, and how wide each is."""


def checks_table(title: str, checks: Sequence[Check]) -> Table:
    """Return a row for every check: whether it is fine, what was found, and what to do where it is not."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading)
    for check in checks:
        mark = Text("ok", "green") if check.fine else Text("NO", "bold red")
        remedy = "" if check.fine else check.remedy
        table.add_row(mark, *(Text(printable(text)) for text in (check.what, check.found, remedy)))
    return table


def drawn(frames: ImageArray, count: int = SHOWN, columns: int = COLUMNS) -> Text:
    """Return frames, spread over uint8 T H W 3, side by side, two pixels to a character."""
    picked = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    height = 2 * max(1, round(columns * frames.shape[1] / frames.shape[2] / 2))
    small = [np.asarray(Image.fromarray(frame).resize((columns, height), Image.Resampling.BOX)) for frame in picked]
    gap = np.zeros((height, 1, 3), np.uint8)
    image = np.concatenate([part for frame in small for part in (frame, gap)][:-1], 1)
    text = Text()
    for upper, lower in zip(image[::2], image[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", Style(color=_colour(above), bgcolor=_colour(below)))
        text.append("\n")
    return text


def check_person() -> None:
    """Raise `ConfigError` where standard input is no terminal: only a person there may let an arm move."""
    if not sys.stdin.isatty():
        raise ConfigError(
            "ARM_PERSON",
            "wanted a person at a terminal to arm the robot, standard input is none; --dry-run needs nobody",
        )


def ask(console: Console, question: str, answers: Sequence[str]) -> str:
    """Return which of ``answers`` was typed after the question; the last one where the terminal is gone.

    What was typed before, an answer to something else or to nothing, is thrown away: each question wants one of its own.
    """
    while True:
        with suppress(termios.error):  # no terminal
            termios.tcflush(sys.stdin, termios.TCIFLUSH)
        console.print(Text(f"{question} "), end="")
        line = sys.stdin.readline()
        if not line:
            return answers[-1]
        if line.strip().lower() in answers:
            return line.strip().lower()
        console.print(Text(f"wanted {' or '.join(answers)}"))


def _colour(pixel: ImageArray) -> Color:
    return Color.from_rgb(*map(int, pixel))
