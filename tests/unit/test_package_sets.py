"""`make sets`: a line a set, and what makes it fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from celery_pi.settings import Settings
from celery_redis_guard.tested_sets import TESTED_SETS, PackageSet
from tests import package_sets
from tests.package_sets import NEWEST, Outcome


@pytest.fixture(autouse=True)
def failing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Sets on which a test fails, or whose environment cannot be made (`!`)."""
    names: set[str] = set()

    def environment(name: str, _: str) -> Path:
        if f"!{name}" in names:
            raise subprocess.CalledProcessError(1, "pip")
        return Path(name)

    def run_suite(python: Path) -> Outcome:
        failed = ("test_x::test_y",) if str(python) in names else ()
        return Outcome("celery 1", 9 - len(failed), failed)

    monkeypatch.setattr(package_sets, "environment", environment)
    monkeypatch.setattr(package_sets, "run_suite", run_suite)
    monkeypatch.setattr(package_sets, "_redis", lambda: "Redis 1")
    return names


def test_each_set_of_the_table_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert package_sets.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Python 3.")
    assert lines[1:] == [f"{name}: celery 1: 9 passed, 0 failed" for name in TESTED_SETS]


@pytest.mark.parametrize("how", ["A", "!A"])
def test_a_set_that_fails_is_told_and_fails_the_command(
    failing: set[str], capsys: pytest.CaptureFixture[str], how: str
) -> None:
    failing.add(how)
    assert package_sets.main(["A"]) == 1
    assert "1 failed\n  " in capsys.readouterr().out
    assert package_sets.main(["C"]) == 0


@pytest.mark.parametrize("how", [NEWEST, f"!{NEWEST}"])
def test_the_newest_is_told_and_never_fails_the_command(
    failing: set[str], capsys: pytest.CaptureFixture[str], how: str
) -> None:
    failing.add(how)
    assert package_sets.main(["--newest"]) == 0
    assert "newest: " in capsys.readouterr().out
    assert package_sets.main(["C"]) == 0
    assert "newest" not in capsys.readouterr().out


def test_a_set_is_pinned_and_the_newest_is_not() -> None:
    assert {"celery==5.5.3", "redis==5.2.1"} <= set(package_sets.pins("A"))
    assert not [pin for pin in package_sets.pins(NEWEST) if pin.startswith("celery=")]
    with pytest.raises(SystemExit):
        package_sets.main(["none"])


def test_what_is_deployed_by_default_is_a_tested_set() -> None:
    pins = dict(pin.split("==") for pin in Settings().app_pins)
    assert PackageSet(*(pins[name] for name in PackageSet._fields)) == TESTED_SETS["C"]
