"""Digest of the package source that a step depends on, so that an edit reruns what it touches.

Imports are followed inside the package only, from the modules a step names. Comments, docstrings and layout
do not count: editing them must not repeat days of training. Tables of kinds stand in `__init__` files and map
to addresses in text: these files do not count either, so that a step depends on its own method and a new
method repeats nothing.
"""

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "deconfound"
ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None


def _shape(node: Any) -> Any:
    """A nested tuple of a syntax tree that is the same under every supported Python version."""
    if isinstance(node, ast.AST):
        kept = [(key, _shape(value)) for key, value in ast.iter_fields(node) if value not in (None, [])]
        return type(node).__name__, tuple(kept)
    if isinstance(node, list):
        return tuple(_shape(item) for item in node)
    return repr(node)


def _imports(tree: ast.Module, module: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")[: -node.level]
                base = ".".join([*parts, base] if base else parts)
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return {name for name in names if name.split(".")[0] == PACKAGE and _file(name)}


@cache
def read(module: str) -> tuple[str, frozenset[str]]:
    """Digest of one module, and the modules of the package that it imports."""
    path = _file(module)
    if path is None:
        raise ModuleNotFoundError(f"{module} is not a module of {PACKAGE}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = _imports(tree, module)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(repr(_shape(tree)).encode()).hexdigest(), frozenset(imports)


def closure(*modules: str) -> list[str]:
    """The modules and all that they import, directly or not, sorted."""
    todo, seen = list(modules), set[str]()
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo.extend(read(module)[1])
    return sorted(seen)


def fingerprint(*modules: str) -> str:
    """Digest of the closure; a module outside the package counts by its bytes, and by what it imports of ours."""
    inside = [module for module in modules if module.split(".")[0] == PACKAGE]
    outside = {module: _source(module) for module in sorted(set(modules) - set(inside))}
    for module, source in outside.items():
        inside += _imports(ast.parse(source), module)
    lines = [f"{module} {read(module)[0]}" for module in closure(*inside)]
    lines += [f"{module} {hashlib.sha256(source).hexdigest()}" for module, source in outside.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _source(module: str) -> bytes:
    spec = find_spec(module)
    return Path(spec.origin).read_bytes() if spec and spec.origin else b""
