"""The app's environment: made once, filled in one call to pip, left alone while it is right."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.exceptions import PyinfraError

from celery_pi import privileges
from celery_pi.app_packages import _locked, locked
from celery_pi.operations import python_packages as module
from celery_pi.operations.python_packages import (
    Environment,
    PythonEnvironment,
    prefetch_python_packages,
    python_packages,
)
from celery_pi.settings import Settings
from tasks import app as app_task
from tests.helpers.fake import Programs, Run, as_root, run, sh

PINS = ("celery[redis]==5.5.3", "django-celery-results==2.6.0")
INSTALLED = ("celery-5.5.3", "django_celery_results-2.6.0", "pip-25.1")

# Python as far as the operation knows it: `-m venv` makes an environment, whose own Python has
# a pip that leaves a folder for each pin.
VENV = """
[ "$1" != -I ] || shift
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
        path = f'PATH = "{self.programs.bin}:'
        text = privileges.text().replace('PATH = "', path)
        monkeypatch.setattr(privileges, "text", lambda: text)
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
        return run(lambda: prefetch_python_packages(name="Begin", **self._named(PINS)))

    def plan(self) -> Run:
        """Of both."""

        def both() -> None:
            prefetch_python_packages(name="Begin", **self._named(PINS))
            python_packages(name="Install", **self._named(PINS))

        return run(both, dry=True)

    def _named(self, pins: Sequence[str]) -> dict[str, Any]:
        return {"venv": str(self.venv), "pins": pins, "requirements": str(self.requirements)}

    def pip_calls(self) -> list[str]:
        return [call for call in self.programs.calls() if " -m pip install " in call]

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


def refusal(app: App) -> str:
    """What is said when the plan cannot even look."""
    with pytest.raises(PyinfraError):
        app.deploy()
    with pytest.raises(AssertionError) as refused:
        app.fact()
    return str(refused.value).partition("\nassert ")[0]


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An app that belongs to the unprivileged user nobody, and that he can reach."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        app = App(Path(directory), monkeypatch)
        who = "echo $(id -un) $(cut -d' ' -f 6,7 /proc/self/stat) \"$HOME\" >>"
        for program in ("python3", "python3.venv"):
            path = app.programs.bin / program
            text = path.read_text().splitlines()[2:]  # he may not write root's log
            path.write_text("\n".join(["#!/bin/sh", f"{who}'{app.dir}/who'", *text]))
        os.chown(app.dir, 65534, 65534)
        yield app


@as_root
def test_all_is_done_as_the_owner_and_with_nothing_of_roots(theirs: App) -> None:
    done = theirs.deploy()
    assert done.error == "", done.shown
    told = [line.split() for line in (theirs.dir / "who").read_text().splitlines()]
    assert len(told) >= 3
    for user, session, terminal, home in told:
        assert (user, home) == ("nobody", pwd.getpwnam("nobody").pw_dir)
        assert (int(session) != os.getsid(0), terminal) == (True, "0")
    assert {path.owner() for path in (theirs.venv, theirs.venv / ".celery-pi")} == {"nobody"}
    assert (theirs.venv / ".celery-pi").stat().st_mode & 0o777 == 0o644, "services read it"
    assert theirs.deploy().changed == [False]


@as_root
@pytest.mark.parametrize("owner", [1, 0])
def test_who_may_replace_the_environment_works_with_it_and_not_its_owner(
    theirs: App, owner: int
) -> None:
    """Else he would have that user, or root, run what he puts there."""
    theirs.deploy()
    (theirs.dir / "who").unlink()
    for path in (theirs.venv, *theirs.venv.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o777)
    theirs.requirements.write_text("changed\n")
    assert theirs.deploy().changed == [True]
    assert {line.split()[0] for line in (theirs.dir / "who").read_text().splitlines()} == {"nobody"}


@as_root
def test_environment_that_several_users_may_replace_is_refused(theirs: App) -> None:
    theirs.deploy()
    theirs.dir.chmod(0o777)
    told = f"celery-pi: {theirs.venv} may be replaced by several users: chmod g-w,o-w {theirs.dir}"
    assert told in refusal(theirs)


@as_root
@pytest.mark.parametrize("name", ["requirements-prod.txt", "venv/.celery-pi"])
@pytest.mark.parametrize("what", ["link", "fifo", "device", "sparse"])
def test_what_lies_in_the_place_of_a_file_keeps_nobody_and_tells_nothing_of_roots(
    theirs: App, name: str, what: str
) -> None:
    theirs.deploy()
    roots = theirs.dir.parent / "roots"
    roots.write_text("s3cret")
    roots.chmod(0o600)
    path = theirs.dir / name
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "sparse":
        path.touch()
        os.truncate(path, 8 * 2**30)
        os.chown(path, 65534, 65534)
    else:
        path.symlink_to(roots if what == "link" else "/dev/zero")
    started = time.monotonic()
    if name == "venv/.celery-pi":
        done = theirs.deploy()
        assert (done.changed, done.error) == ([True], "")  # replaced by one of his own
    else:
        told = {"link": "cannot be read by nobody", "sparse": "is larger than 1 MiB"}
        sentence = f"celery-pi: {path} {told.get(what, 'is no regular file')}"
        assert refusal(theirs).splitlines()[-1].startswith(sentence)
    assert time.monotonic() - started < 10
    assert roots.read_text() == "s3cret"


@as_root
def test_child_that_was_stopped_ends_with_the_time(
    theirs: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = theirs.programs.bin / "python3.venv"
    pip.write_text("#!/bin/sh\n(kill -STOP $$; sleep 60) & kill -STOP $$\n")
    monkeypatch.setattr(module, "INSTALL_TIMEOUT", 1)
    started = time.monotonic()
    done = theirs.deploy()
    assert done.error
    assert "celery-pi: sh does not end within 1 s" in done.shown
    assert time.monotonic() - started < 10
    assert theirs.fact().ready, "and nothing waits for it"


@contextmanager
def pip_at_work(seconds: float) -> Iterator[str]:
    """A process holds the lock as a pip that works beside a deploy does: by a descriptor that it
    has from the one that locked it. Its name and number."""
    lock = Path(module.LOCK)
    lock.parent.mkdir()
    script = 'exec 9>"$0"; flock 9; echo; exec sleep "$1"'
    command = ("sh", "-c", script, lock, str(seconds))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        yield f"sleep ({holder.pid})"
        holder.terminate()


@pytest.mark.parametrize("dry", [True, False])
def test_pip_at_work_is_waited_for_and_named(
    deployed: App, monkeypatch: pytest.MonkeyPatch, dry: bool
) -> None:
    monkeypatch.setattr(module, "QUIET_WAIT", 0)
    with pip_at_work(1.5) as holder:
        done = deployed.plan() if dry else deployed.deploy()
    assert f"waits up to 660 s for pip: {holder} holds {module.LOCK}" in done.shown
    assert (done.error, any(done.planned)) == ("", False)


@pytest.mark.parametrize("dry", [True, False])
def test_pip_that_does_not_end_is_not_waited_for_without_end(
    app: App, monkeypatch: pytest.MonkeyPatch, dry: bool
) -> None:
    monkeypatch.setattr(module, "QUIET_WAIT", 0)
    monkeypatch.setattr(module, "WAIT_TIMEOUT", 1)
    with pip_at_work(60) as holder:
        with pytest.raises(PyinfraError):
            app.plan() if dry else app.deploy()
        command = PythonEnvironment().command(str(app.venv), str(app.requirements), last=True)
        with pytest.raises(AssertionError) as refused:
            sh(command)
    said = f"celery-pi: pip has not ended after 1 s: {holder} holds {module.LOCK}"
    assert said in str(refused.value)


# -- what is ours, by digest

LOCKED = tuple(
    _locked(f"{pin} --hash=sha256:{'0' * 64}")
    for pin in ("celery==5.5.3", "django-celery-results==2.6.0", "vine==5.1.0", "kombu==5.5.4")
)
BY_DIGEST = "--no-deps --require-hashes --only-binary :all: -r "


def locked_deploy(app: App) -> tuple[Run, list[str], str]:
    """The run, pip's calls, and what it was given to install by digest."""
    pip = app.programs.bin / "python3.venv"
    if "locked" not in pip.read_text():
        note = (
            f'case "$*" in *require-hashes*) eval cp "\\${{$#}}" "\'{app.dir}/locked\'" ;; esac\n'
        )
        pip.write_text(pip.read_text() + note)
        shutil.copy(pip, app.venv / "bin/python3.13") if app.venv.exists() else None
    app.programs.calls()
    (app.dir / "locked").unlink(missing_ok=True)
    done = run(lambda: python_packages(name="Install", **app._named(PINS), locked=LOCKED))
    told = app.dir / "locked"
    return done, app.pip_calls(), told.read_text() if told.exists() else ""


def test_what_is_ours_comes_first_and_only_as_a_known_wheel(app: App) -> None:
    done, calls, told = locked_deploy(app)
    assert done.error == "", done.shown
    first, second = calls
    assert BY_DIGEST in first
    assert told.splitlines() == [package.line for package in LOCKED]
    ours = "celery,django-celery-results,vine,kombu"
    assert second.endswith(f"--only-binary {ours} {' '.join(PINS)} -r {app.requirements}")
    assert locked_deploy(app)[:2] == (run_like(changed=[False]), [])


def run_like(**expected: Any) -> Any:
    class Like:
        def __eq__(self, other: object) -> bool:
            return all(getattr(other, name) == value for name, value in expected.items())

    return Like()


def test_what_the_owners_requirements_have_brought_stays(deployed: App) -> None:
    (deployed.packages / "vine-5.0.0.dist-info").mkdir()
    deployed.requirements.write_text("changed\n")
    done, calls, told = locked_deploy(deployed)
    assert done.error == "", done.shown
    assert told == f"{LOCKED[3].line}\n"
    assert "--dry-run" in calls[0], "what contradicts itself is refused before anything is changed"
    assert BY_DIGEST in calls[1]
    assert len(calls) == 3


def test_pinned_package_in_another_version_is_replaced_by_the_known_one(deployed: App) -> None:
    other_version(deployed)
    _, _, told = locked_deploy(deployed)
    assert LOCKED[0].line in told.splitlines()
    assert LOCKED[1].line not in told.splitlines()


def test_refused_contradiction_changes_nothing(deployed: App) -> None:
    other_version(deployed)
    deployed.broken.touch()
    before = sorted(deployed.packages.iterdir())
    done, calls, _ = locked_deploy(deployed)
    assert done.error
    assert len(calls) == 1
    assert sorted(deployed.packages.iterdir()) == before


def test_what_begins_beside_other_operations_is_by_digest_too(app: App) -> None:
    pip = app.programs.bin / "python3.venv"
    note = f'case "$*" in *require-hashes*) eval cp "\\${{$#}}" "\'{app.dir}/locked\'" ;; esac\n'
    pip.write_text(pip.read_text() + note)
    named = app._named(PINS)
    run(lambda: prefetch_python_packages(name="Begin", **named, locked=LOCKED))
    assert run(lambda: python_packages(name="Install", **named, locked=LOCKED)).changed == [False]
    assert (app.dir / "locked").read_text().splitlines() == [package.line for package in LOCKED]


def test_lock_has_every_pin_with_a_digest_and_nothing_of_the_owners() -> None:
    found = {package.name: package for package in locked()}
    for pin in Settings().app_pins:
        name, _, version = pin.partition("==")
        assert str(found[name].version) == version
    assert not {"django", "asgiref", "sqlparse"} & set(found)
    for package in found.values():
        assert re.search(
            r" --hash=sha256:[0-9a-f]{64}( --hash=sha256:[0-9a-f]{64})*$", package.line
        )


@pytest.mark.parametrize("pins", [None, ("celery==5.5.3",)])
def test_pins_of_the_owners_are_installed_as_he_says(pins: tuple[str, ...] | None) -> None:
    settings = Settings(app_pins=pins) if pins else Settings()
    assert bool(app_task._locked(settings)) == (pins is None)


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
