"""What README.md says is so."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

from celery_redis_guard.tested_sets import TESTED_SETS, PackageSet
from guard_process import SOURCE

pytestmark = pytest.mark.fast

README = (SOURCE.parent / "README.md").read_text()
PACKAGE = SOURCE / "celery_redis_guard"
# What cannot be imported here: two that need an environment, Flower, and one version of Celery.
OTHERS = {"app", "smoke_test", "flower", "celery_5_7_0"}
MODULES = [path.stem for path in PACKAGE.glob("*.py") if path.stem not in OTHERS]


def test_each_private_name_of_a_library_is_listed() -> None:
    section = README.partition("## Private names")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(_[a-z]\w+)`", section, re.IGNORECASE))
    assert listed == _overridden() | _read()


def test_each_module_is_described() -> None:
    section = README.partition("## Modules")[2].partition("\n## ")[0]
    described = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.M))))
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert described == modules | {"celeryredisguard"}


def test_tested_versions_are_listed() -> None:
    section = README.partition("## Tested versions")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \|$", section, re.M)[1:]
    found = {name: PackageSet(*versions) for name, *versions in (row.split(" | ") for row in rows)}
    assert found == TESTED_SETS


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("celery_redis_guard")


def _overridden() -> set[str]:
    found = set()
    for module in MODULES:
        for kind in vars(importlib.import_module(f"celery_redis_guard.{module}")).values():
            if isinstance(kind, type) and _is_ours(kind):
                theirs = [base for base in kind.__mro__ if not _is_ours(base)]
                found |= {
                    name
                    for name in vars(kind)
                    if _is_private(name)
                    and any(name in vars(base) for base in theirs)
                    and name != "_abc_impl"  # Python's
                }
    return found


def _read() -> set[str]:
    """Names behind a dot, or for getattr, that no function of ours has."""
    trees = [ast.parse((PACKAGE / f"{module}.py").read_text()) for module in MODULES]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef)} | {"_exit"}
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    asked = [node.args[1] for node in nodes if isinstance(node, ast.Call) and _is_getattr(node)]
    names |= {str(name.value) for name in asked if isinstance(name, ast.Constant)}
    return {name for name in names - ours if _is_private(name)}


def _is_getattr(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "getattr"
