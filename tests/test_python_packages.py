"""The app's environment: made once, filled in one call to pip, left alone while it is right."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from celery_pi.operations import python_packages as module
from celery_pi.operations.python_packages import (
    Environment,
    PythonEnvironment,
    python_packages,
    python_packages_begun,
)
from celery_pi.settings import Settings
from tests.fake import Programs, Run, as_root, run, sh

pytestmark = pytest.mark.fast

PINS = ("celery[redis]==5.5.3", "django-celery-results==2.6.0")
INSTALLED = ("celery-5.5.3", "django_celery_results-2.6.0", "pip-25.1")

# Python as far as the operation knows it: `-m venv` makes an environment, whose own Python has
# a pip that leaves a folder for each pin.
VENV = """
[ "$1" = -m ] || exec test ! -e "{unable}"
mkdir -p "$3/bin" "$3/lib/python3.13/site-packages"
cp "$0.venv" "$3/bin/python3.13"; ln -sf python3.13 "$3/bin/python"
mkdir -p "$3/lib/python3.13/site-packages/pip-25.1.dist-info"
touch "$3/lib/python3.13/site-packages/pip-25.1.dist-info/RECORD"
"""
PIP = """
[ ! -e "{slow}" ] || sleep 1
[ ! -e "{broken}" ] || { echo "ERROR: no such version" >&2; exit 1; }
for pin in "$@"; do
  case $pin in *==*)
    name=$(echo "${pin%%==*}" | sed 's/\\[.*//; s/-/_/g')
    rm -rf "${0%/bin/*}/lib/python3.13/site-packages/$name"-*
    mkdir "${0%/bin/*}/lib/python3.13/site-packages/$name-${pin#*==}.dist-info" ;;
  esac
done
"""


class App:
    """The directory of an app, and the programs that work on it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = Programs(directory, monkeypatch)
        self.broken, self.slow, self.unable = (
            directory / name for name in ("broken", "slow", "unable")
        )
        monkeypatch.setattr(module, "LOCK", str(directory / "run/pip.lock"))
        self.programs.add("runuser", 'shift 3; exec "$@"')
        self.programs.add("python3", VENV.replace("{unable}", str(self.unable)))
        pip = PIP.replace("{broken}", str(self.broken)).replace("{slow}", str(self.slow))
        self.programs.add("python3.venv", pip)
        self.dir = directory / "my app"
        self.dir.mkdir()
        self.venv = self.dir / "venv"
        self.packages = self.venv / "lib/python3.13/site-packages"
        self.requirements = self.dir / "requirements-prod.txt"
        self.requirements.write_text("Django==5.2\n")

    def deploy(self, pins: Sequence[str] = PINS) -> Run:
        self.programs.calls()
        return run(lambda: python_packages(name="Install", **self._named(pins)))

    def begin(self) -> Run:
        return run(lambda: python_packages_begun(name="Begin", **self._named(PINS)))

    def plan(self) -> Run:
        """Of both."""

        def both() -> None:
            python_packages_begun(name="Begin", **self._named(PINS))
            python_packages(name="Install", **self._named(PINS))

        return run(both, dry=True)

    def _named(self, pins: Sequence[str]) -> dict[str, Any]:
        return {"venv": str(self.venv), "pins": pins, "requirements": str(self.requirements)}

    def pip_calls(self) -> list[str]:
        calls = [call for call in self.programs.calls() if " -m pip install " in call]
        return [call for call in calls if not call.startswith("runuser")]

    def installed(self) -> set[str]:
        return {f"{package.name} {package.version}" for package in self.fact().installed}

    def fact(self) -> Environment:
        fact = PythonEnvironment()
        command = fact.command(venv=str(self.venv), requirements=str(self.requirements))
        lines = sh(command)
        return fact.process(lines) if lines else fact.default()


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    return App(tmp_path, monkeypatch)


@pytest.fixture
def deployed(app: App) -> App:
    done = app.deploy()
    assert (done.changed, done.error) == ([True], "")
    app.programs.calls()
    return app


def test_environment_is_made_and_filled_in_one_call_to_pip(app: App) -> None:
    done = app.deploy()
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    (call,) = app.pip_calls()
    assert call.endswith(f" {' '.join(PINS)} -r {app.requirements}")
    assert {path.name for path in app.packages.iterdir()} == {
        f"{name}.dist-info" for name in INSTALLED
    }


def test_missing_requirements_are_none_of_pips_business(app: App) -> None:
    app.requirements.unlink()
    app.deploy()
    (call,) = app.pip_calls()
    assert call.endswith(" ".join(PINS))
    assert app.deploy().changed == [False]


def test_environment_that_is_right_is_left_alone(deployed: App) -> None:
    before = (deployed.venv / ".celery-pi").stat().st_mtime_ns
    (deployed.packages / "flower-2.0.0.dist-info").mkdir()  # one more is the owner's business
    done = deployed.deploy()
    assert (done.planned, done.changed) == ([False], [False])
    assert deployed.programs.calls() == []
    assert (deployed.venv / ".celery-pi").stat().st_mtime_ns == before


def other_version(app: App) -> None:
    (app.packages / "celery-5.5.3.dist-info").rename(app.packages / "celery-5.4.0.dist-info")


DRIFTS: dict[str, Callable[[App], object]] = {
    "package missing": lambda app: shutil.rmtree(app.packages / "celery-5.5.3.dist-info"),
    "other version": other_version,
    "requirements changed": lambda app: app.requirements.write_text("Django==5.3\n"),
    "requirements gone": lambda app: app.requirements.unlink(),
    "record gone": lambda app: (app.venv / ".celery-pi").unlink(),
    "record of other wishes": lambda app: (app.venv / ".celery-pi").write_text("0" * 64 + "\n"),
    "pip half removed": lambda app: (app.packages / "pip-25.1.dist-info/RECORD").unlink(),
    "environment gone": lambda app: shutil.rmtree(app.venv),
}


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=list(DRIFTS))
def test_drift_is_mended_by_one_call_to_pip(deployed: App, drift: Callable[[App], object]) -> None:
    drift(deployed)
    done = deployed.deploy()
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert len(deployed.pip_calls()) == 1
    assert {"celery 5.5.3", "pip 25.1"} <= deployed.installed()
    assert deployed.deploy().changed == [False]


@pytest.mark.parametrize("pins", [("celery==5.5.2", PINS[1]), (*PINS, "redis==5.2.1"), PINS[:1]])
def test_other_pins_are_installed(deployed: App, pins: Sequence[str]) -> None:
    assert deployed.deploy(pins).changed == [True]
    assert len(deployed.pip_calls()) == 1
    assert deployed.deploy(pins).changed == [False]


def test_failed_installation_says_why_and_is_tried_again(deployed: App) -> None:
    record = (deployed.venv / ".celery-pi").read_text()
    deployed.requirements.write_text("Django==9\n")
    deployed.broken.touch()
    done = deployed.deploy()
    assert done.error
    assert "ERROR: no such version" in done.shown
    assert (deployed.venv / ".celery-pi").read_text() == record
    deployed.broken.unlink()
    assert deployed.deploy().changed == [True]


@as_root
@pytest.mark.parametrize("there", [True, False])
def test_pip_runs_as_the_owner_of_the_environment_else_of_the_app(app: App, there: bool) -> None:
    if there:
        app.deploy()
        os.chown(app.venv, 65534, 65534)
        app.requirements.write_text("changed\n")
    else:
        os.chown(app.dir, 65534, 65534)
    app.deploy()
    calls = [call for call in app.programs.calls() if call.startswith("runuser")]
    assert calls
    assert {call.split(" -- ")[0] for call in calls} == {"runuser -u nobody"}


def test_fact_of_an_environment_that_is_not_there(app: App) -> None:
    digest = hashlib.sha256(app.requirements.read_bytes()).hexdigest()
    assert app.fact() == Environment(False, "", digest, frozenset(), able=True)
    app.requirements.unlink()
    app.unable.touch()
    assert app.fact() == Environment(False, "", "", frozenset(), able=False)


def test_fact_reads_names_as_pip_compares_them(deployed: App) -> None:
    for folder in ("Zope.Interface-8.7", "typing_extensions-4.16.0", "X-1!2.0+local"):
        (deployed.packages / f"{folder}.dist-info").mkdir()
    (deployed.packages / "celery").mkdir()
    found = deployed.fact()
    assert found.ready
    assert deployed.installed() == {
        *("celery 5.5.3", "django-celery-results 2.6.0", "pip 25.1"),
        *("zope-interface 8.7", "typing-extensions 4.16.0", "x 1!2.0+local"),
    }


@pytest.mark.parametrize("name", ["Django.Celery-Results", "django_celery_results"])
def test_spellings_of_one_package_are_the_same(app: App, name: str) -> None:
    app.deploy([f"{name}==2.6.0"])
    assert app.deploy([f"{name}==2.6.0"]).planned == [False]


def test_packages_of_another_python_do_not_count(deployed: App) -> None:
    """After an upgrade of Debian the environment has a Python that sees none of them."""
    (deployed.venv / "bin/python3.13").rename(deployed.venv / "bin/python3.14")
    (deployed.venv / "bin/python").unlink()
    (deployed.venv / "bin/python").symlink_to("python3.14")
    assert not deployed.fact().ready
    assert deployed.fact().installed == frozenset()


def test_default_pins_are_recognised_once_pip_has_installed_them(app: App) -> None:
    app.deploy(Settings().app_pins)
    assert app.deploy(Settings().app_pins).changed == [False]


def test_pin_without_trailing_zeros_settles(app: App) -> None:
    app.deploy(["flower==2.0"])
    (app.packages / "flower-2.0.dist-info").rename(app.packages / "flower-2.0.0.dist-info")
    assert app.deploy(["flower==2.0"]).planned == [False]


def test_environment_whose_python_is_gone_is_made_again(deployed: App) -> None:
    (deployed.venv / "bin/python").unlink()
    assert deployed.deploy().error == ""


def test_record_that_a_power_cut_left_half_does_not_hide_the_requirements(deployed: App) -> None:
    (deployed.venv / ".celery-pi").write_text("0" * 20)
    deployed.deploy()
    (call,) = deployed.pip_calls()
    assert call.endswith(f" -r {deployed.requirements}")


def test_what_was_begun_is_waited_for_and_not_done_again(app: App) -> None:
    app.slow.touch()
    begun = app.begin()
    assert (begun.planned, begun.changed, begun.error) == ([True], [True], "")
    assert not app.packages.exists() or not list(app.packages.glob("celery-*"))
    assert app.deploy().changed == [False]
    assert app.installed() == {"celery 5.5.3", "django-celery-results 2.6.0", "pip 25.1"}


def test_what_was_begun_and_went_wrong_is_done_again_and_told(app: App) -> None:
    app.broken.touch()
    assert app.begin().error == ""
    done = app.deploy()
    assert done.error
    assert "ERROR: no such version" in done.shown
    app.broken.unlink()
    assert app.deploy().changed == [True]


def test_nothing_begins_where_there_is_an_environment_or_none_can_be_made(app: App) -> None:
    app.unable.touch()
    assert app.begin().planned == [False]
    assert app.plan().planned == [False, True]
    app.unable.unlink()
    assert app.plan().planned == [True, False]
    assert not app.venv.exists()
    app.deploy()
    (app.packages / "celery-5.5.3.dist-info").rename(app.packages / "celery-5.4.0.dist-info")
    assert app.begin().planned == [False]
    assert app.plan().planned == [False, True]
