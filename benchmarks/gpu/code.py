"""What a module needs: the files of ours that it imports, one after another, and the libraries that these import."""

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("dvgwm", "benchmarks")


def files_of(*modules: str) -> tuple[Path, ...]:
    """Return the files of ``modules``, and of every module of ours that they import, in whatever way."""
    found: dict[Path, None] = {}
    pending = list(modules)
    while pending:
        path = _path(pending.pop())
        if path is not None and path not in found:
            found[path] = None
            pending += [name for name, _ in _imports(path) if name.split(".")[0] in OURS]
    return tuple(sorted(found))


def libraries_of(*modules: str) -> tuple[str, ...]:
    """Return the packages without which ``modules`` cannot be imported: those imported at the top of a file."""
    seen, needed, pending = set[Path](), set[str](), list(modules)
    while pending:
        path = _path(pending.pop())
        if path is None or path in seen:
            continue
        seen.add(path)
        for name, at_top in _imports(path):
            if not at_top:
                continue
            if name.split(".")[0] in OURS:
                pending.append(name)
            elif name.split(".")[0] not in sys.stdlib_module_names:
                needed.add(name.split(".")[0])
    return tuple(sorted(needed))


def hash_of(*modules: str) -> str:
    """Return a hash of all that `files_of` finds: what a measurement of ``modules`` is valid for."""
    digest = hashlib.sha256()
    for path in files_of(*modules):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _path(module: str) -> Path | None:
    """Return the file of a module of ours, None for a name in one."""
    place = ROOT.joinpath(*module.removeprefix("dvgwm.").split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Return every name that a file imports, and whether it does so at its top."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = (*(() if parts[0] == "benchmarks" else ("dvgwm",)), *parts[:-1])
    tree = ast.parse(path.read_bytes())
    return tuple((name, node in tree.body) for node in ast.walk(tree) for name in _names(node, package))


def _names(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Yield what a node imports; of ``from X import y`` both X and X.y, which may be a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        base = ".".join((*above, *((node.module,) if node.module else ())))
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
