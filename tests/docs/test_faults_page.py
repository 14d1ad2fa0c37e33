"""docs/faults.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "faults.md").read_text("utf-8"))
    assert len(named) > 9
    for path, name in named:
        assert f"def {name or ''}" in (ROOT / path).read_text("utf-8"), f"{path}::{name}"
