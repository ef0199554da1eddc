"""The structure that the design asks for: what protocol/ imports, what mirrors what, and sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROTOCOL = sorted((ROOT / "protocol").rglob("*.py"))
AGENT = sorted((ROOT / "agent").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# Pure parts of the standard library: no clock, no file, no socket, no thread, no chance.
PURE = {
    "__future__",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "decimal",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "math",
    "re",
    "struct",
    "typing",
    "urllib.parse",
    "cbor2",
    "msgspec",
}
# Of these only what is named: the generator is injected, its module's functions share one state.
PURE_NAMES = {"random": {"Random"}}
VAGUE = {"utils", "util", "helpers", "helper", "base", "manager", "managers", "common", "misc"}
LINES_MAX = 70
# Who iterates a set iterates in the order of hashes, which differs from process to process.
SETS = {"set", "frozenset"}
ORDERING = {
    "list",
    "tuple",
    "enumerate",
    "iter",
    "next",
    "zip",
    "map",
    "filter",
    "reversed",
    "dict",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name_of(path))


def imports_of(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """(module, name) of each import; the name is None where the module itself is taken."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ((alias.name, None) for alias in node.names)
            case ast.ImportFrom():
                assert node.level == 0, "relative import"
                yield from ((node.module or "", alias.name) for alias in node.names)


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", PROTOCOL, ids=name_of)
def test_protocol_imports_what_is_pure(path: Path) -> None:
    for module, name in imports_of(tree_of(path)):
        if module == "protocol" or module.startswith("protocol."):
            continue
        if module in PURE_NAMES:
            assert name in PURE_NAMES[module], f"from {module} import {name}"
        else:
            assert module in PURE, f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", PROTOCOL, ids=name_of)
def test_protocol_opens_nothing_and_asks_nobody(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "input", "print", "exec", "eval", "__import__"}


@pytest.mark.parametrize("path", PROTOCOL, ids=name_of)
def test_protocol_never_iterates_a_set(path: Path) -> None:
    """By its looks: a set written or called where order matters, or a name that holds one."""
    assert set_iterations(tree_of(path)) == []


def set_iterations(tree: ast.AST) -> list[int]:
    """The lines that take the elements of a set in the order of their hashes."""
    found = []
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef):
            names = set_names(scope) | set_attributes(tree)
            found += [each.lineno for each in iterated(scope) if is_set(each, names)]
    return sorted(set(found))


def iterated(tree: ast.AST) -> Iterator[ast.expr]:
    """Each expression whose elements are taken in turn, except into another set."""
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=taken):
                yield taken
            case ast.ListComp() | ast.DictComp():
                yield from (each.iter for each in node.generators)
            case ast.Starred(value=taken):
                yield taken
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in ORDERING:
                yield from arguments
            case ast.Call(func=ast.Attribute(attr="join" | "extend"), args=arguments):
                yield from arguments


def is_set(node: ast.expr, names: set[str]) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in SETS
        case ast.Name(id=name):
            return name in names
        case ast.Attribute(attr=name):
            return f".{name}" in names
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() | ast.Sub() | ast.BitXor()):
            return is_set(left, names)
    return False


def set_names(function: ast.FunctionDef) -> set[str]:
    """The variables and arguments of a function that hold a set."""
    names = set()
    for node in ast.walk(function):
        match node:
            case ast.arg(arg=name, annotation=ast.expr() as kind) if is_set_type(kind):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind) if is_set_type(kind):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_set(value, set()):
                names.add(name)
    return names


def set_attributes(tree: ast.AST) -> set[str]:
    """The fields of the module's classes that hold a set, as `.name`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                match each:
                    case ast.AnnAssign(target=ast.Name(id=name), annotation=kind) if is_set_type(
                        kind
                    ):
                        names.add(f".{name}")
    return names


def is_set_type(node: ast.expr) -> bool:
    text = ast.unparse(node)
    return text.split("[")[0] in {"set", "frozenset", "Set", "AbstractSet"}


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("def f(a):\n for x in {1, 2}: pass", [2]),
        ("def f(a):\n return [x for x in set(a)]", [2]),
        ("def f(a):\n return list(frozenset(a))", [2]),
        ("def f(a: set[int]):\n for x in a: pass", [2]),
        ("def f(a):\n b = {x for x in a}\n for x in b: pass", [3]),
        ("def f(a):\n b = set(a)\n return ','.join(b)", [3]),
        ("def f(a):\n return [*set(a)]", [2]),
        ("def f(a):\n for x in set(a) - {1}: pass", [2]),
        ("class A:\n b: set[int]\n def f(self):\n  for x in self.b: pass", [4]),
        ("def f(a):\n for x in sorted({1, 2}): pass", []),
        ("def f(a):\n return sorted(set(a)), len({1}), min({2}), 1 in {1}", []),
        ("def f(a: dict[int, int]):\n for x in a: pass", []),
        ("def f(a):\n return {x for x in set(a)}", []),
    ],
)
def test_an_iterated_set_is_noticed(code: str, lines: list[int]) -> None:
    assert set_iterations(ast.parse(code)) == lines


def mirror_of(path: Path) -> Path:
    """protocol/wire.py has tests/protocol/test_wire.py, protocol/sim/x.py tests/sim/test_x.py."""
    folder = path.relative_to(ROOT).parent
    if folder.parts[:2] == ("protocol", "sim"):
        folder = Path(*folder.parts[1:])
    return ROOT / "tests" / folder / f"test_{path.name}"


@pytest.mark.parametrize(
    "path", [path for path in PROTOCOL if path.name != "__init__.py"], ids=name_of
)
def test_each_module_of_protocol_has_its_tests(path: Path) -> None:
    assert mirror_of(path).exists(), f"{name_of(mirror_of(path))} is missing"


@pytest.mark.parametrize("path", [*PROTOCOL, *AGENT, *TESTS], ids=name_of)
def test_a_module_is_named_for_what_it_holds(path: Path) -> None:
    for part in path.relative_to(ROOT).with_suffix("").parts:
        assert part.lower() not in VAGUE


@pytest.mark.parametrize("path", [*PROTOCOL, *AGENT], ids=name_of)
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    for function in functions_of(tree_of(path)):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= LINES_MAX, f"{function.name}: {lines} lines"


@pytest.mark.parametrize("path", [*PROTOCOL, *AGENT], ids=name_of)
def test_a_module_says_what_it_owns(path: Path) -> None:
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text)), "no docstring"


def test_every_folder_of_modules_is_a_package() -> None:
    """Else it is not installed, or two test files of one name are taken for one module."""
    folders = {path.parent for path in [*PROTOCOL, *AGENT, *TESTS]}
    assert [name_of(each) for each in sorted(folders) if not (each / "__init__.py").exists()] == []


def test_the_import_contracts_are_kept() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    run = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr
