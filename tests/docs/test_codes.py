"""docs/codes.md lists every log code that the source can give; `pytest tests/docs/test_codes.py --write-pages` writes it."""

import ast
import re
from collections import defaultdict
from pathlib import Path

from dvgwm.robots import messages
from dvgwm.runtime import errors
from dvgwm.runtime.errors import DvgwmError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "codes.md"
KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, DvgwmError)}
ROOMS = ("runtime", "robots", "export", "training", "models", "kernels")


def written(node: ast.expr | None) -> str | None:
    """Return a text as the source has it, what is filled in as ``...``; None for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) or "..." for part in node.values)
    if isinstance(node, ast.IfExp):
        return f"{written(node.body) or '...'} / {written(node.orelse) or '...'}"
    if isinstance(node, ast.BinOp):
        return f"{written(node.left) or '...'}{written(node.right) or '...'}"
    return None


def codes() -> dict[str, dict[str, list[str]]]:
    """Return exit code and sentences of every log code, from the places where errors are made."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"exit": [], "said": []})
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            kind = getattr(node.func, "id", getattr(node.func, "attr", ""))
            code = written(node.args[0])
            if kind not in KINDS or code is None:
                continue
            for one in re.split(r" / ", code):
                said = " ".join((written(node.args[1]) or "...").split())
                entry = found[one]
                entry["exit"] += [str(KINDS[kind].exit_code)] if str(KINDS[kind].exit_code) not in entry["exit"] else []
                entry["said"] += [said] if said not in entry["said"] else []
    for code, said in messages.MESSAGES.items():
        ends = str(messages.stopped(code).exit_code) if "latched" in said else "-"
        found[code] = {"exit": [ends], "said": [said.replace("{where}", "")]}
    return dict(sorted(found.items()))


def page() -> str:
    lines = [
        "# Log codes",
        "",
        "Every failure has a code of its own: the second word of the line on standard error, `E<exit code> <LOG CODE> ...`,",
        "or the name of an event of the arm, which goes on where the exit code is `-`. The sentence says what was wanted,",
        "what came and what to do; `...` is filled in. Made from the source by",
        "`pytest tests/docs/test_codes.py --write-pages`.",
        "",
        "| log code | exit | what is said |",
        "|---|---|---|",
    ]
    for code, entry in codes().items():
        said = "<br>".join(text.replace("|", "\\|").replace("<", "&lt;") for text in entry["said"])
        lines.append(f"| `{code}` | {', '.join(entry['exit'])} | {said} |")
    return "\n".join(lines) + "\n"


def test_the_page_lists_every_code(request):
    if request.config.getoption("--write-pages"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "pytest tests/docs/test_codes.py --write-pages writes it anew"


def test_a_code_means_one_exit_code():
    several = {code: entry["exit"] for code, entry in codes().items() if len(entry["exit"]) > 1}
    assert not several


def test_every_code_is_found_that_the_motion_side_gives():
    assert set(messages.MESSAGES) <= set(codes())
    assert {"ROBOT_LOCKED", "BUNDLE_MISSING", "STAGE_CHUNKS", "OUTPUT_NONFINITE"} <= set(codes())
