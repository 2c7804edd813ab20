"""The rules of the house, checked on the code itself: who may import whom, and how large things may grow.

The README's "How it is built" shows the rooms. Imports go one way, from high ranks to low ones; a folder's files may
import each other. The page process must not load torch, so ``ui`` and everything below it are free of it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = sorted((ROOT / "fooocus").rglob("*.py"))

RANKS = {
    **dict.fromkeys(("errors", "config", "renames", "awake"), 0),
    **dict.fromkeys(("events", "request", "memory"), 0),
    **dict.fromkeys(("diffusion", "prompt", "images", "jobs"), 1),
    "families": 2,
    "loading": 3,
    "render": 4,
    "bench": 5,
    "ui": 5,
    "app": 6,
    "install": 1,
    "models": 1,
    "cli": 7,
    "__main__": 8,
    "__init__": 0,
}
MAY_IMPORT_TORCH = {"diffusion", "families", "loading", "render", "bench"}
SPEAKS = {"cli", "install"}  # install is the launcher's own room: it runs before anything is installed
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors"}

FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 8
# Named exemptions: path or path:function -> reason.
EXEMPT: dict[str, str] = {}


def room(file: Path) -> str:
    parts = file.relative_to(ROOT / "fooocus").parts
    return parts[0] if len(parts) > 1 else file.stem


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out in full"
            yield node.module or ""
            if node.module == "fooocus":
                yield from (f"fooocus.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    here = room(file)
    for name in imports(ast.parse(file.read_text(encoding="utf-8"))):
        top, _, rest = name.partition(".")
        if top in HEAVY:
            assert here in MAY_IMPORT_TORCH, f"{here} must not import {name}"
        if top == "gradio":
            assert here == "ui"
        if here == "install":
            assert top in (*sys.stdlib_module_names, "fooocus"), f"install must not import {name}"
        if top != "fooocus" or not rest:
            continue
        there = rest.partition(".")[0]
        same_folder = there == here and file.parent != ROOT / "fooocus"
        lowest = RANKS[there] == RANKS[here] == 0
        assert same_folder or lowest or RANKS[there] < RANKS[here], f"{here} must not import {there}"
        if here == "ui":
            assert (RANKS[there] <= 1 and there != "diffusion") or there == "ui"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_limits(file: Path) -> None:
    path = str(file.relative_to(ROOT))
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    problems = []
    if text.count("\n") > FILE_LINES:
        problems.append((path, f"{text.count(chr(10))} lines"))
    if text.strip() and ast.get_docstring(tree) is None:
        problems.append((path, "no module docstring"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{path}:{node.name}"
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            arguments = node.args
            count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
            count -= bool(arguments.args and arguments.args[0].arg in ("self", "cls"))
            if lines > FUNCTION_LINES:
                problems.append((where, f"{lines} lines"))
            if count > PARAMETERS:
                problems.append((where, f"{count} parameters"))
            if arguments.kwarg is not None:
                problems.append((where, "takes **kwargs"))
        problems += [(path, trouble) for trouble in _forbidden(node)]
    assert [problem for problem in problems if problem[0] not in EXEMPT] == []


def _forbidden(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Global():
            yield "global"
        case ast.ExceptHandler(type=None):
            yield "bare except"
        case ast.ExceptHandler(body=[ast.Pass()]):
            yield "handler that only passes"
        case ast.ImportFrom(names=[ast.alias(name="*")]):
            yield "star import"
        case ast.Call(func=ast.Name(id="eval" | "exec")):
            yield "eval"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch" | "pickle"), attr="load")):
            yield "pickle"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_only_the_command_line_prints_and_importing_does_nothing(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if room(file) not in SPEAKS:
        assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and _is_name(n.func, "print")]
    # A call that stands alone at the top of a module can only be there for its effect.
    assert not [n.lineno for n in tree.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]


def test_other_modules_attributes_are_left_alone() -> None:
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        modules = {alias.asname or alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    owner = target.value if isinstance(target, ast.Attribute) else None
                    assert not (isinstance(owner, ast.Name) and owner.id in modules), f"{file}:{node.lineno}"


def test_the_page_process_loads_no_torch() -> None:
    """Import everything that the page process imports, in a fresh interpreter, and look what came along."""
    program = (
        "import sys, fooocus.cli, fooocus.app, fooocus.ui.server, fooocus.ui.layout, fooocus.jobs.supervisor;"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
