"""A test that fails beside others and not alone is forgiven, unless it counts tasks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.helpers.harness import ROOT, Outcome, run

# Of the second run, the test that needs the one before it; the first fails once, and leaves a mark.
TESTS = """
import pathlib, pytest
mark = pathlib.Path("mark")
state = []

def test_before():
    state.append(1)

{marker}
def test_fails_once({fixture}):
    known = mark.exists()
    mark.touch()
    assert known and state
"""
FIXTURE = "@pytest.fixture\ndef first_deploy(): pass\n"


def try_it(project: Path, *arguments: str) -> Outcome:
    python = (sys.executable, "-B", "-m", "pytest", "-q", "-p", "tests.conftest")
    return run(
        *python,
        "--rootdir=.",
        *arguments,
        ".",
        cwd=project,
        PYTHONPATH=str(ROOT),
        PYTEST_ADDOPTS="",
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Another project's tests, with our plugin."""
    (tmp_path / "test_other.py").write_text("def test_passes(): pass\n")
    return tmp_path


def write(project: Path, marker: str = "", fixture: str = "") -> None:
    text = TESTS.format(marker=marker, fixture=fixture)
    (project / "test_module.py").write_text(text + (FIXTURE if fixture else ""))


def test_module_of_what_failed_is_run_again(project: Path) -> None:
    write(project)
    assert try_it(project).status == 1
    again = try_it(project, "--second-try")
    assert again.status == 0
    assert "2 passed" in again.stdout


def test_what_fails_again_fails(project: Path) -> None:
    write(project, marker="@pytest.mark.parametrize('x', [1])", fixture="x, missing")
    assert try_it(project).status == 1
    assert try_it(project, "--second-try").status == 1


@pytest.mark.parametrize(("marker", "fixture"), [("@pytest.mark.counts", ""), ("", "first_deploy")])
def test_what_counts_tasks_or_deploys_from_nothing_has_none(
    project: Path, marker: str, fixture: str
) -> None:
    write(project, marker, fixture)
    assert try_it(project).status == 1
    again = try_it(project, "--second-try")
    assert again.status not in {0, 1}
    assert "no second try: test_module.py::test_fails_once" in again.stderr
    assert not again.stdout.count("passed")


def test_there_is_none_when_nothing_failed(project: Path) -> None:
    assert try_it(project, "-k", "passes").status == 0
    assert "no second try: no test has failed" in try_it(project, "--second-try").stderr
