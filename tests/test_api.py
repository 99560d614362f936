"""Every public name is in the API reference, and the errors that it raises are in its docstring.

That docstrings are complete is a rule of the linter (`numpydoc lint`) and of the documentation (`docs/conf.py`).
"""

import ast
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path

from numpydoc.docscrape import get_doc_object

import soscope_scverse as sos

API = Path(__file__).parents[1] / "docs" / "api.md"


def public_names() -> dict[str, object]:
    """Every name of the namespaces, every baseline, and the public methods and properties of the classes."""
    spaces = {name: getattr(sos, name) for name in sos.__all__ if inspect.ismodule(getattr(sos, name))}
    names = {f"{space}.{name}": getattr(module, name) for space, module in spaces.items() for name in module.__all__}
    names |= {f"bench.baselines.{name}": baseline for name, baseline in names.pop("bench.BASELINES").items()}
    for name, cls in [(name, found) for name, found in names.items() if inspect.isclass(found)]:
        ours = [base for base in reversed(cls.__mro__) if base.__module__.startswith("soscope_scverse")]
        names |= {
            f"{name}.{member}": getattr(cls, member)
            for member, found in [item for base in ours for item in vars(base).items()]
            if not member.startswith("_")
            and (callable(found) or isinstance(found, classmethod | staticmethod | property))
        }
    return names


NAMES = public_names()


def base_of(name: str):
    """The public method that a method overrides, if its docstring refers to it."""
    owner, _, member = name.rpartition(".")
    bases = NAMES[owner].__mro__[1:] if inspect.isclass(NAMES.get(owner)) else ()
    for base in bases:
        if member in vars(base) and f"see :meth:`{base.__name__}.{member}`" in NAMES[name].__doc__:
            return vars(base)[member]
    return None


@cache
def tree(function) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def is_made(function) -> bool:
    """Whether it is the constructor of a data class, which has no source."""
    return function.__code__.co_filename == "<string>"


def raised(function, owner=None, seen=()) -> set[str]:
    """Names of the exceptions that a function raises in its body, or in private helpers of this package it calls."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not inspect.isfunction(function) or function in seen or is_made(function):
        return set()
    found = set()
    for node in ast.walk(tree(function)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            found.add(node.exc.func.id)
        if isinstance(node, ast.Call) and (helper := private_helper(node.func, function, owner)):
            found |= raised(helper, owner, (*seen, function))
    return found - {"NotImplementedError"}


def private_helper(call: ast.expr, function, owner):
    """The function that is called, if it has an underscore before its name or that of its module."""
    if isinstance(call, ast.Name):
        found = function.__globals__.get(call.id)
    elif isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name):
        holder = owner if call.value.id in ("self", "cls") else function.__globals__.get(call.value.id)
        found = getattr(holder, call.attr, None) if inspect.ismodule(holder) or holder is owner else None
    else:
        return None
    module = getattr(found, "__module__", None) or ""
    names = [*module.split("."), getattr(found, "__name__", "")]
    return found if names[0] == sos.__name__ and any(re.match("_[a-z]", name) for name in names) else None


def undocumented_errors(name: str) -> set[str]:
    found = NAMES[name]
    function = found.fget if isinstance(found, property) else found.__init__ if inspect.isclass(found) else found
    owner = found if inspect.isclass(found) else NAMES.get(name.rpartition(".")[0])
    documented = [error for doc in (found, base_of(name)) if doc for error in get_doc_object(doc)["Raises"]]
    return raised(function, owner) - {kind for error in documented for kind in re.split(r",\s*", error.type)}


def test_raised_errors_are_documented():
    assert {name: errors for name in sorted(NAMES) if (errors := undocumented_errors(name))} == {}


def test_every_public_name_is_in_the_api_reference():
    entries = re.findall(r"^(?:   |\.\. py:data:: soscope_scverse\.)([\w.]+)$", API.read_text(), flags=re.MULTILINE)
    classes = [name for name, found in NAMES.items() if inspect.isclass(found)]
    members = {name for name in NAMES if name.rpartition(".")[0] in classes}  # are on the page of their class
    assert {*NAMES, "bench.BASELINES"} - members - set(entries) == set()
