"""What the pages point at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
PATH = r"`((?:runtime|robots|models|training|export|kernels|tests|benchmarks)/[\w/.]*\w)[^\w`]*`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_exist(page):
    text = page.read_text()
    for name in re.findall(PATH, text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_a_missing_file_is_seen():
    assert re.findall(PATH, "`runtime/run.py` and `numpy/core.py`") == ["runtime/run.py"]
    assert not (ROOT / "runtime" / "run.py").exists()
