"""Where things stand: shell texts in `.sh` files, which shellcheck sees; facts and operations."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_pi import shell
from celery_pi.render import ROOT
from celery_pi.shell import script

LONGEST = 4  # lines of shell in a Python string
SOURCES = [*sorted((ROOT / "celery_pi").rglob("*.py")), *sorted((ROOT / "tasks").glob("*.py"))]
CODE = [path for path in SOURCES if path.is_relative_to(ROOT / "celery_pi")]


def test_a_text_is_sent_without_its_head_and_without_directives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "TEXTS", tmp_path)
    (tmp_path / "one.sh").write_text("# Why.\n# More.\nf() {\n  # kept\n  echo 1  # too\n}\n")
    (tmp_path / "two.sh").write_text(
        "# shellcheck disable=SC1\nf\n  # shellcheck disable=SC2  # x\nf\n"
    )
    assert script("one", "two") == "\nf() {\n  # kept\n  echo 1  # too\n}\n\nf\nf\n"


def test_every_text_is_used() -> None:
    named = {
        argument.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "script"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    assert named == {path.stem for path in shell.TEXTS.glob("*.sh")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_program_is_a_python_string(path: Path) -> None:
    assert [text for text in texts(path) if text.strip().count("\n") >= LONGEST] == []


def test_operations_stand_in_one_package_where_each_module_has_one() -> None:
    found = {path for path in CODE if "\n@operation" in path.read_text()}
    hooks = ROOT / "celery_pi/deploys/run.py"  # first and last of a run
    modules = set((ROOT / "celery_pi/operations").glob("[!_]*.py"))
    assert found == {hooks, *modules}


def test_facts_stand_beside_their_operation_or_with_preflight_or_in_one_package() -> None:
    homes = {"facts", "operations", "preflight"}
    found = {path for path in CODE if "(FactBase[" in path.read_text()}
    others = {path for path in found if path.relative_to(ROOT / "celery_pi").parts[0] not in homes}
    assert others == {ROOT / "celery_pi/deploys/history.py"}  # the records, which `run` writes


def texts(path: Path) -> Iterator[str]:
    """Strings of a module that are no docstrings."""
    tree = ast.parse(path.read_text())
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield "" if id(node) in alone else node.value
