"""Make the ``dvgwm`` namespace of links (`make links`): for mypy, and for machines where nothing can be installed.

    python tests/make_links.py build/links runtime robots ...

It has the metadata of an installed package beside it, so that entry points resolve there.
"""

import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(target: Path, packages: list[str]) -> None:
    shutil.rmtree(target, ignore_errors=True)
    (target / "dvgwm").mkdir(parents=True)
    for package in packages:
        (target / "dvgwm" / package).symlink_to(ROOT / package)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = target / f"dvgwm-{project['version']}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dvgwm\nVersion: {project['version']}\n")
    groups = {"console_scripts": project["scripts"]} | project["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups.items()]
    (folder / "entry_points.txt").write_text("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
