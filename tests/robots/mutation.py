"""Mutates the gate and sees whether its tests notice: `make mutation`, about two minutes on two cores.

mutmut changes one expression of `robots/gate.py` or `robots/braking.py` at a time, in a copy under build/, and runs
tests/robots/test_gate.py on it.
The last lines are the score and what survived, each with the reason why that is no fault; one without a reason fails the run.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "mutation"
ROOMS = "robots", "runtime"
"""The folders whose modules, without the rooms inside them, the gate's tests import from."""
SETTINGS = """
[tool.mutmut]
source_paths = ["dvgwm/robots"]
only_mutate = ["dvgwm/robots/gate.py", "dvgwm/robots/braking.py"]
also_copy = ["dvgwm"]
pytest_add_cli_args_test_selection = ["tests/"]
"""
LEAST_SCORE = 0.95
REASONS = (
    (
        r"zip\(.*(strict=None|, \)|strict=False\))",
        "the rows have one length: `fault` and the limits see to it",
    ),
    (r"window = \(1 << .*\) - 2\b", "the bit that is left out was shifted in as 0"),
    (r"abs\(before\) < change", "at equality both give a speed of 0"),
    (r"before - change if before >= 0", "a speed of 0 is within what a tick may change"),
    (r"velocity\)\) >= space", "no speed is met by chance"),
    (r"x, y, z = .* - [abc] \* speed", "a sum with the other sign is as long"),
    (
        r"low - ROUNDING < speed|speed < high \+ ROUNDING|abs\(bounded - requested\) >= ROUNDING",
        "a tolerance has no exact edge",
    ),
)


def prepare() -> None:
    """Lay out gate, tests and what they import as a package of their own."""
    shutil.rmtree(COPY, ignore_errors=True)
    for room in ROOMS:
        (COPY / "dvgwm" / room).mkdir(parents=True)
        for module in (ROOT / room).glob("*.py"):
            shutil.copy(module, COPY / "dvgwm" / room)
    (COPY / "dvgwm" / "__init__.py").touch()
    (COPY / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "robots" / "test_gate.py", COPY / "tests")
    # An editable install finds the package before the path does.
    finder = "import sys\n\nsys.meta_path[:] = [f for f in sys.meta_path if 'Redirecting' not in type(f).__name__]\n"
    (COPY / "tests" / "conftest.py").write_text(finder)
    (COPY / "pyproject.toml").write_text(SETTINGS)


def mutmut(*words: str, shown: bool = False) -> str:
    """Return what mutmut prints, nothing where it is ``shown`` instead."""
    command = [sys.executable, "-m", "mutmut", *words]
    stdout = None if shown else subprocess.PIPE
    return subprocess.run(command, cwd=COPY, stdout=stdout, text=True, timeout=1800, check=False).stdout or ""


def reason(change: str) -> str | None:
    """Return why a surviving change is no fault, None if nobody has said."""
    return next((why for pattern, why in REASONS if re.search(pattern, change)), None)


def main() -> int:
    """Mutate, print score and survivors, and return 1 where the score is too low or a survivor has no reason."""
    prepare()
    mutmut("run", "--max-children", "2", shown=True)
    states = dict(re.findall(r"^\s*(\S+): (.+)$", mutmut("results", "--all", "true"), re.M))
    if not states:
        print("E1 MUTATION_NONE wanted mutants, got none: pip install mutmut", file=sys.stderr)
        return 1
    caught = [name for name, state in states.items() if state in ("killed", "timeout")]
    if not caught:
        print("E1 MUTATION_TESTS no change was noticed: the tests do not run on the copy", file=sys.stderr)
        return 1
    survivors = {
        name: "".join(re.findall(r"^\+(?!\+).*", mutmut("show", name), re.M)) for name in states if name not in caught
    }
    score = len(caught) / len(states)
    print(f"{len(caught)} of {len(states)} changes were noticed: {score:.1%} (wanted {LEAST_SCORE:.0%})")
    unexplained = 0
    for name, change in sorted(survivors.items(), key=lambda item: reason(item[1]) or ""):
        why = reason(change)
        unexplained += why is None
        print(f"survived: {change[1:].strip()[:110]}\n          {why or f'no reason is known ({name})'}")
    return int(score < LEAST_SCORE or unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
