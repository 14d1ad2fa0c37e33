"""What the pages of docs/ and the examples are run with."""

import tomllib

import pytest


@pytest.fixture(scope="session")
def installed():
    """What does what ``pip install -e .`` does, without a network: it names a package's entry points on the path."""
    return _installed


def _installed(folder):
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    facts = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "\n".join(f"{name} = {target}" for name, target in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
