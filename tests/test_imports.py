"""What imports what: no circles, and nothing heavy with the package alone."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "soscope_scverse"
SOURCE = Path(__file__).parents[1] / PACKAGE


def names() -> dict[str, Path]:
    """Modules of the package by name; that of a folder is its stub, where its names come from, if it has one."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        stub = path.with_suffix(".pyi")
        found[".".join(parts).removesuffix(".__init__")] = stub if stub.exists() else path
    return found


MODULES = names()


def imported(module: str) -> set[tuple[str, str | None]]:
    """Modules that a module takes something from, and what: anywhere in it, inside of functions and for types, too."""
    found: set[tuple[str, str | None]] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:  # of a folder only its stub is read, so that its own name is that of the folder
                is_folder = MODULES[module].stem == "__init__"
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_folder]
                source = ".".join([*parts, *filter(None, [source])])
            found |= {(source, alias.name) for alias in node.names}
    return {(source, name) for source, name in found if source.split(".")[0] == PACKAGE}


@cache
def origin(source: str, name: str | None) -> str:
    """Module in which what is imported is defined, however many folders hand it on."""
    if name is None:
        return source
    if f"{source}.{name}" in MODULES:
        return f"{source}.{name}"
    if MODULES[source].stem == "__init__":
        for inner, alias in imported(source):
            if alias == name and inner != source:
                return origin(inner, alias)
    return source


def needs(module: str) -> set[str]:
    return {origin(*pair) for pair in imported(module)} - {module}


GRAPH = {module: needs(module) for module in MODULES if module != PACKAGE}  # which hands on its folders alone


def test_no_module_imports_itself_through_others():
    circles, done = [], set()

    def follow(module, path):
        if module in path:
            circles.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for other in sorted(GRAPH.get(module, ())):
                follow(other, [*path, module])
            done.add(module)

    for module in GRAPH:
        follow(module, [])
    assert "\n".join(circles) == ""


def test_every_import_of_the_package_is_known():
    unknown = {other for others in GRAPH.values() for other in others} - set(MODULES)
    assert unknown == set()


ABOVE = {"module", "model", "tl", "bench", "pl", "cli"}
FLOORS = {  # what a part of the package must not know
    "module": {"pp", "im", "metrics", "datasets", *ABOVE},
    **dict.fromkeys(("pp", "im", "metrics", "datasets"), ABOVE),
    "model": {"tl", "bench", "pl", "cli"},
    "tl": {"cli"},
    "bench": {"cli"},
    "pl": {"cli"},
}


def test_floors_know_nothing_of_those_above():
    known = {
        f"{module} -> {other}"
        for module, others in GRAPH.items()
        for other in others
        if (part := module.split(".")[1]) in FLOORS and other.split(".")[1] in FLOORS[part] - {part}
    }
    assert known == set()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("soscope_scverse", ("torch", "scanpy", "squidpy", "spatialdata", "matplotlib", "lightning")),
        ("soscope_scverse.im", ("torch", "torchvision", "timm", "distributed", "squidpy", "spatialdata")),
        ("soscope_scverse.bench", ("torch",)),
        ("soscope_scverse.pl", ("torch",)),
    ],
)
def test_imports_are_light(module, heavy):
    """Of the names of a part of the package, too."""
    code = (
        f"import sys, {module} as part\n"
        "[getattr(part, name) for name in part.__all__ if part.__name__ != 'soscope_scverse']\n"
        f"print(*sorted(set({heavy}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
