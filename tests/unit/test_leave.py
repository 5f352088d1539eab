"""The way back: what becomes of `.env`, files, units and Python packages."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_pi.on_the_pi import leave as program
from celery_pi.operations.env_file import with_variables
from tests.helpers.manifest import manifest_text

OURS = {
    "CELERY_BROKER_URL": "redis://celery:new@127.0.0.1:6379/0",
    "CELERY__BROKER_URL": "redis://celery:new@127.0.0.1:6379/0",
    "CELERY_KEY_PREFIX": "",
}


@pytest.fixture
def leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, with a machine of its own."""
    module = program
    monkeypatch.setattr(module, "STATE", tmp_path / "state")
    monkeypatch.setattr(module, "BEFORE", tmp_path / "state/before")
    monkeypatch.setattr(module, "UNITS", tmp_path / "units")
    monkeypatch.setattr(module, "ETC", tmp_path / "etc")
    monkeypatch.setattr(module, "NAMED", ())
    for name in ("state/before", "units"):
        (tmp_path / name).mkdir(parents=True)
    return module


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"A=1\n",
        b"A=1",
        b"A=1\r\nCELERY_BROKER_URL=old\r\n",
        b"CELERY__BROKER_URL=old # mine\nA=1\n",
        b"# Celery\nexport CELERY_BROKER_URL='o l d'\nB=2\nCELERY_BROKER_URL=twice\n",
        b"A=1\nCELERY_KEY_PREFIX=birds:",
    ],
)
def test_lines_of_before_are_there_again_byte_for_byte(leave: Any, before: bytes) -> None:
    after = with_variables(before, OURS)
    assert after != before
    if b"twice" in before:  # of two lines that set the same, both come back where one was
        assert sorted(leave.earlier_text(after, before)) == sorted(before)
    else:
        assert leave.earlier_text(after, before) == before


def test_what_the_owner_has_written_since_stays(leave: Any) -> None:
    before = b"A=1\nCELERY_BROKER_URL=old\n"
    now = with_variables(before, OURS).replace(b"A=1", b"A=2") + b"C=3\n"
    assert leave.earlier_text(now, before) == b"A=2\nCELERY_BROKER_URL=old\nC=3\n"


def test_a_file_that_was_not_there_keeps_what_others_have_put_into_it(leave: Any) -> None:
    assert leave.earlier_text(with_variables(b"", OURS) + b"SECRET=1\n", b"") == b"SECRET=1\n"


def note(leave: Any, *paths: Path) -> None:
    (leave.BEFORE / "ours").write_text("".join(f"{path}\n" for path in paths))


def test_what_somebody_has_put_in_the_place_of_ours_stays(leave: Any, tmp_path: Path) -> None:
    ours, theirs, gone = (tmp_path / f"{name}.conf" for name in ("ours", "theirs", "gone"))
    ours.write_text("# Managed by celery-pi.\n")
    theirs.write_text("# my own by now\n")
    note(leave, ours, theirs, gone)
    assert leave.made() == [ours]


def test_what_was_there_before_is_put_back_and_not_removed(leave: Any, tmp_path: Path) -> None:
    path = tmp_path / "jail.local"
    path.write_text("# Managed by celery-pi.\n")
    copy = Path(f"{leave.BEFORE}/files{path}")
    copy.parent.mkdir(parents=True)
    copy.write_text("the owner's")
    copy.chmod(0o640)
    note(leave, path)
    assert leave.kept() == [path]
    assert leave.made() == []
    leave.put_back(path)
    assert path.read_text() == "the owner's"
    assert path.stat().st_mode & 0o777 == 0o640


def test_who_gives_work_stops_first_and_the_worker_last(leave: Any) -> None:
    names = (
        "celery-worker.service",
        "celery-beat.service",
        "celery-pi-backup.timer",
        "other.service",
    )
    for name in names:
        (leave.UNITS / name).write_text("# Managed by celery-pi.\n")
    (leave.UNITS / "other.service").write_text("[Unit]\n")
    note(leave, *(leave.UNITS / name for name in names))
    units = leave.our_units()
    assert units[-1] == "celery-worker.service"
    assert set(units) == {*names} - {"other.service"}


def test_what_was_started_last_is_stopped_first(leave: Any) -> None:
    leave.ETC.mkdir()
    (leave.ETC / "manifest.json").write_text(manifest_text())
    started = ["redis-memory.service", "celery-worker.service", "celery-beat.service"]
    timer = "celery-pi-backup.timer"
    for name in (*started, timer):
        (leave.UNITS / name).write_text("# Managed by celery-pi.\n")
    note(leave, *(leave.UNITS / name for name in (*started, timer)))
    assert leave.our_units() == [timer, *reversed(started)]


def test_files_that_the_manifest_names_are_ours(leave: Any, tmp_path: Path) -> None:
    ours = tmp_path / "ours.conf"
    ours.write_text("# Managed by celery-pi.\n")
    leave.ETC.mkdir()
    (leave.ETC / "manifest.json").write_text(json.dumps({"files": {str(ours): {}}}))
    assert leave.made() == [ours]


def test_python_packages_of_before(leave: Any, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    packages = venv / "lib/python3.13/site-packages"
    packages.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python3.13").touch()
    (venv / "bin/python").symlink_to("python3.13")
    (venv / "lib/python3.11/site-packages/redis-5.2.1.dist-info").mkdir(parents=True)  # before
    for name in ("celery-5.5.3", "django_celery_results-2.6.0", "flower-2.0.0"):
        (packages / f"{name}.dist-info").mkdir()
    listed = tmp_path / "listed"
    listed.write_text(f"{venv}\ncelery==5.6.0\ndjango-celery-results==2.6.0\n")
    assert leave.python_changes(listed) == (str(venv), ["-flower", "celery==5.6.0"])


def test_units_that_ran_before(leave: Any) -> None:
    (leave.BEFORE / "units").write_text(
        "celery.service enabled active\nold.service disabled inactive\nlink.service linked active\n"
    )
    assert leave.earlier_units() == [
        ("celery.service", True, True),
        ("old.service", False, False),
        ("link.service", False, True),
    ]


# -- where others may change the way


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A directory of the app's user, which all may enter."""
    directory = Path(tempfile.mkdtemp(prefix="celery-pi-test-", dir="/srv"))
    directory.chmod(0o755)
    shutil.chown(directory, "www-data")
    yield directory
    shutil.rmtree(directory)


def keep(leave: Any, path: Path, text: str) -> None:
    copy = Path(f"{leave.BEFORE}/files{path}")
    copy.parent.mkdir(parents=True)
    copy.write_text(text)


def test_no_link_beside_a_file_of_the_owners_leads_root_astray(
    leave: Any, theirs: Path, tmp_path: Path
) -> None:
    roots, path = tmp_path / "profile", theirs / "their.conf"
    roots.write_text("root's")
    (theirs / "their.conf.celery-pi-back").symlink_to(roots)
    keep(leave, path, "the attacker's")
    with pytest.raises(leave.CannotLeave, match="others than root may change the way"):
        leave.put_back(path)
    assert roots.read_text() == "root's"
    keep(leave, tmp_path / "root.conf", "of before")
    leave.put_back(tmp_path / "root.conf")
    assert (tmp_path / "root.conf").read_text() == "of before"


def test_env_of_each_place_where_the_app_was_is_restored_and_none_put_back(
    leave: Any, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = theirs / "old/.env", theirs / "new/.env"
    monkeypatch.setattr(leave, "settings", lambda: {"app_dir": str(new.parent)})
    keep(leave, old, "A=1\n")
    assert leave.env_paths() == [new, old]


@pytest.mark.parametrize("noted", ["4755 root root", "2750 root root", "640 root nogroup"])
def test_owner_of_env_who_was_noted_by_a_trick_gets_no_file_of_roots(
    leave: Any, theirs: Path, monkeypatch: pytest.MonkeyPatch, noted: str
) -> None:
    """Such as a set-uid one: who may change the way could have led the deploy elsewhere."""
    env = theirs / ".env"
    env.write_text("A=1\nCELERY_BROKER_URL=new\n")
    env.chmod(0o644)
    shutil.chown(env, "www-data")
    (leave.BEFORE / "owners").write_text(f"{noted} {env}\n")
    known = {"app_dir": str(theirs), "app_user": "www-data"}
    monkeypatch.setattr(leave, "settings", lambda: known)
    leave.restore_env(env, [])
    shown = env.stat()
    assert env.read_text() == "A=1\n"
    assert (env.owner(), shown.st_mode & 0o6000) == ("www-data", 0)


def test_owner_and_mode_of_before_come_back(
    leave: Any, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.chown(theirs, "nobody")
    env = theirs / ".env"
    env.write_text("A=1\nCELERY_BROKER_URL=new\n")
    shutil.chown(env, "www-data")
    env.chmod(0o644)
    (leave.BEFORE / "owners").write_text(f"640 nobody www-data {env}\n")
    known = {"app_dir": str(theirs), "app_user": "www-data"}
    monkeypatch.setattr(leave, "settings", lambda: known)
    leave.restore_env(env, [])
    shown = env.stat()
    assert (env.owner(), env.group(), shown.st_mode & 0o7777) == ("nobody", "www-data", 0o640)


def test_roots_own_env_comes_back_where_root_alone_has_the_way(
    leave: Any, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.chown(theirs, "root", "root")
    env = theirs / ".env"
    env.write_text("A=1\nCELERY_BROKER_URL=new\n")
    (leave.BEFORE / "owners").write_text(f"640 root www-data {env}\n")
    known = {"app_dir": str(theirs), "app_user": "www-data"}
    monkeypatch.setattr(leave, "settings", lambda: known)
    leave.restore_env(env, [])
    shown = env.stat()
    assert (env.owner(), env.group(), shown.st_mode & 0o7777) == ("root", "www-data", 0o640)


def test_root_does_not_read_what_the_way_to_an_earlier_app_leads_to(
    leave: Any, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noted as root's, by the same trick; a text that is read there would be written there."""
    (tmp_path / "shadow").write_text("root's\nCELERY_BROKER_URL=new\n")
    env = theirs / ".env"
    env.symlink_to(tmp_path / "shadow")
    (leave.BEFORE / "owners").write_text(f"644 root root {env}\n")
    known = {"app_dir": str(tmp_path / "app"), "app_user": "www-data"}
    monkeypatch.setattr(leave, "settings", lambda: known)
    assert leave.app_user(env) == "www-data"
    with pytest.raises(leave.privileges.Refused):
        leave.restore_env(env, [])
    assert "CELERY_BROKER_URL" in (tmp_path / "shadow").read_text()


def test_redis_that_a_deploy_installed_goes_with_its_configuration_and_is_not_started(
    leave: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its drop-ins go first: cut off after that, the rest is still to be done, and can be."""
    dropins = tmp_path / "units/redis-server.service.d"
    dropins.mkdir()
    (dropins / "celery-pi.conf").write_text("[Service]\n")
    note(leave, dropins / "celery-pi.conf")
    monkeypatch.setattr(leave, "REDIS_DROPINS", dropins)
    monkeypatch.setattr(leave, "settings", dict)
    monkeypatch.setattr(leave, "run", lambda *_, **__: "")

    def told(packages: list[str]) -> list[str]:
        monkeypatch.setattr(leave, "installed", lambda: packages)
        return [step.text.split(":")[0] for step in leave.steps()]

    start = "start Redis with its own configuration; waiting tasks stay in it"
    remove, purge = (
        "remove 1 files of celery-pi's own",
        "remove the packages that a deploy installed",
    )
    ours = told(["redis-server"])
    assert ours.index(remove) < ours.index(purge)
    assert start not in ours
    theirs = told([])
    assert start in theirs
    assert remove not in theirs


def test_nothing_is_found_by_its_name_through_directories_of_others(
    leave: Any, theirs: Path, tmp_path: Path
) -> None:
    """As in Redis' own directory, which may hold files of an earlier deploy."""
    (tmp_path / "celery-pi-notes.txt").write_text("root's")
    (theirs / "x").symlink_to(tmp_path)
    assert not leave.is_roots_alone(theirs / "x/celery-pi-notes.txt")
    (theirs / "celery-pi.acl").write_text("ours")
    assert not leave.is_roots_alone(theirs / "celery-pi.acl")
    assert leave.is_roots_alone(tmp_path / "celery-pi-notes.txt")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_ours_and_does_not_hang(
    leave: Any, tmp_path: Path, make: Any
) -> None:
    make(tmp_path / "venv")
    assert not leave.is_ours(tmp_path / "venv")


def test_machine_without_celery_pi_is_left_alone(
    leave: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(leave, "STATE", tmp_path / "no")
    monkeypatch.setattr(leave, "LIBRARY", tmp_path / "no")
    monkeypatch.setattr(sys, "argv", ["leave", "--yes"])
    assert leave.main() == 0
    assert capsys.readouterr().out == ""
