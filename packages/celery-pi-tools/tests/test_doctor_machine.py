"""`celery-pi doctor` and the machine: disks, clock, packages, owners, units, code."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery_pi.manifest import merged
from celery_pi_tools import journal, manifest
from celery_pi_tools.checks import (
    app,
    certificates,
    clock,
    disk,
    drift,
    leftovers,
    packages,
    permissions,
    processes,
    registry,
    repairs,
    restarts,
    secrets,
    units,
)
from celery_pi_tools.privileges import Failed
from fake_system import UP, fake_system
from tests.helpers.fake import ME, Programs, as_root, mode
from tests.helpers.harness import wait_for
from tests.helpers.hostile import put

pytestmark = pytest.mark.fast


# -- disk, clock, packages, processes


@pytest.mark.parametrize(
    ("free", "whole", "told"),
    [
        (8 * 2**30, 16 * 2**30, ""),
        (300 * 2**20, 16 * 2**30, ""),
        (100 * 2**20, 16 * 2**30, "100.0 MiB of 16.0 GiB free"),
        (60 * 2**20, 128 * 2**20, ""),
        (10 * 2**20, 128 * 2**20, "10.0 MiB of 128.0 MiB free"),
    ],
)
def test_disk_is_judged(free: int, whole: int, told: str) -> None:
    shown = SimpleNamespace(f_bavail=free, f_blocks=whole, f_frsize=1, f_files=0, f_favail=0)
    assert disk.left(shown) == told


def test_disk_without_room_for_files_is_full() -> None:
    shown = SimpleNamespace(f_bavail=2**33, f_blocks=2**34, f_frsize=1, f_files=1000, f_favail=5)
    assert disk.left(shown) == "5 of 1000 files free"


def test_each_disk_is_looked_at_once(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    found = list(disk.disks(fake_system(app_dir=str(tmp_path))))
    devices = [Path(path).stat().st_dev for path, _ in found]
    assert len(devices) == len(set(devices))
    assert found[0][0] == "/"


@pytest.mark.parametrize(("ahead", "wrong"), [(-10, False), (3600, False), (90000, True)])
def test_clock_behind_the_newest_file_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, wrong: bool
) -> None:
    witness = tmp_path / "clock"
    witness.touch()
    os.utime(witness, (time.time() + ahead,) * 2)
    monkeypatch.setattr(clock, "WITNESSES", (tmp_path / "none", witness))
    assert (clock.behind(None) is not None) is wrong


OFF, LATE = "network time is switched off", "no network time has come since the start"


@pytest.mark.parametrize(
    ("load", "active", "synchronized", "uptime", "saw"),
    [
        ("loaded", "active", True, 9999, None),
        ("loaded", "active", False, 60, None),
        ("loaded", "active", False, 9999, LATE),
        ("loaded", "inactive", False, 60, OFF),
        ("not-found", "inactive", False, 9999, None),
    ],
)
def test_clock_that_nobody_sets_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load: str,
    active: str,
    synchronized: bool,
    uptime: int,
    saw: str | None,
) -> None:
    said = f"echo LoadState={load}; echo ActiveState={active}"
    programs = Programs(tmp_path, monkeypatch)
    programs.add("systemctl", said)
    (tmp_path / "uptime").write_text(f"{uptime}.12 99.0\n")
    for name in ("UPTIME", "SYNCHRONIZED", "CONTAINER"):
        monkeypatch.setattr(clock, name, tmp_path / name.lower())
    if synchronized:
        (tmp_path / "synchronized").touch()
    found = clock.unset(None)
    assert (found and found.evidence) == saw
    (tmp_path / "container").touch()
    assert clock.unset(None) is None, "it has its host's clock"
    if saw == OFF:
        programs.calls()
        found.fix()
        (call,) = programs.calls()
        assert call == "systemctl enable --quiet --now systemd-timesyncd.service"


@pytest.fixture
def dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says what dpkg-query lists; nobody holds dpkg's lock."""
    programs = Programs(tmp_path, monkeypatch)
    lock = tmp_path / "lock"
    lock.touch()
    monkeypatch.setattr(packages, "LOCKS", (lock,))
    return SimpleNamespace(
        list=lambda text: programs.add("dpkg-query", f"printf '{text}'"),
        programs=programs,
        lock=lock,
    )


def test_half_installed_package_is_brought_to_its_end(dpkg: Any) -> None:
    dpkg.list("install installed ok a\\ndeinstall config-files ok b\\n")
    assert packages.half_installed(None) is None
    dpkg.list("install half-configured ok a\\ninstall unpacked ok b\\n")
    found = packages.half_installed(None)
    assert found.evidence == "not fully installed: a, b"
    dpkg.programs.add("dpkg", "env | grep DEBIAN_FRONTEND=noninteractive")
    dpkg.programs.calls()
    found.fix()
    assert dpkg.programs.calls() == ["dpkg --force-confold --configure -a"]


HOLD = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
HOLD += "print('held', flush=True); time.sleep(60)"


def test_package_that_is_being_installed_is_no_problem(dpkg: Any) -> None:
    dpkg.list("install half-configured ok a\\n")
    argv = [sys.executable, "-c", HOLD, str(dpkg.lock)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as apt:
        assert apt.stdout
        assert apt.stdout.readline() == "held\n"
        assert packages.half_installed(None) is None
        apt.kill()
    assert packages.half_installed(None)
    with dpkg.lock.open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it keeps none itself


def test_package_of_ours_that_is_held_is_told(dpkg: Any) -> None:
    dpkg.list("hold installed ok redis-server\\nhold installed ok vim\\n")
    assert packages.held(None).evidence == "held back: redis-server"
    dpkg.list("hold installed ok vim\\n")
    assert packages.held(None) is None


def test_stopped_process_is_found_and_goes_on() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        system = fake_system()
        system.units = {"celery-beat": UP}
        system.pids = lambda _: [process.pid, 2**22 + 1]
        assert processes.stopped(system) is None
        process.send_signal(signal.SIGSTOP)
        found = wait_for("it is stopped", lambda: processes.stopped(system))
        assert f"celery-beat, process {process.pid}" in found.evidence
        found.fix()
        wait_for("it goes on", lambda: processes.stopped(system) is None)
        process.kill()


# -- permissions


def reachable(path: Path) -> None:
    """For users who are not root."""
    path.chmod(0o755)
    for parent in path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o111)


@as_root
def test_owners_that_have_been_removed_are_told_by_number(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.chown(file, 54321, 54321)
    assert permissions.access(file) == f"{mode(file):o} 54321:54321"


@as_root
def test_file_of_roots_where_others_write_is_given_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could be any that they have put there: a person has to look."""
    reachable(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/django.log").touch(mode=0o600)
    (tmp_path / ".env").touch(mode=0o644)
    shutil.chown(tmp_path / "logs", "daemon", "daemon")
    shutil.chown(tmp_path, "daemon", "daemon")
    system = fake_system(app_dir=str(tmp_path), app_user="daemon", app_writable=("logs",))
    found = permissions.unwritable(system)
    assert found.fix is None
    assert found.remedy.endswith(f"chown -h daemon {tmp_path}/logs/django.log")
    wanted = [permissions.Expected(tmp_path / ".env", 0o600, "daemon", "daemon")]
    monkeypatch.setattr(permissions, "expected", lambda _: wanted)
    found = permissions.drifted(system)
    assert (found.fix, found.files) == (None, (f"{tmp_path}/.env",))
    assert found.remedy.endswith(f"chown -h daemon {tmp_path}/.env")


def test_each_secret_that_a_component_states_has_its_owner_and_mode() -> None:
    wanted = [(str(each.path), each.described) for each in permissions.expected(fake_system())]
    assert ("/etc/celery-pi/flower.env", "600 root:root") in wanted
    assert ("/etc/nginx/celery-pi.htpasswd", "640 root:www-data") in wanted
    assert len({path for path, _ in wanted}) == len(wanted), "each is named once"


def test_passwords_that_are_missing_are_not_taken_for_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, "STORE", tmp_path / "secrets")
    assert registry.judged(secrets.passwords_private, fake_system()).level == "wrong"
    assert permissions.expected(fake_system()), "the doctor goes on with the others"


@as_root
def test_what_drifted_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, missing = tmp_path / ".env", tmp_path / "missing"
    there.touch()
    there.chmod(0o644)
    wanted = [permissions.Expected(path, 0o600, "root", "root") for path in (there, missing)]
    monkeypatch.setattr(permissions, "expected", lambda _: wanted)
    found = permissions.drifted(fake_system())
    assert found.evidence == f"{there} is 644 root:root, not 600 root:root"
    found.fix()
    assert mode(there) == 0o600
    assert permissions.drifted(fake_system()) is None
    there.unlink()
    there.symlink_to("/etc/passwd")
    assert permissions.drifted(fake_system()).fix is None


@as_root
def test_directories_and_logs_of_the_app_are_given_to_it(tmp_path: Path) -> None:
    reachable(tmp_path)
    shutil.chown(tmp_path, "bin")
    system = fake_system(app_dir=str(tmp_path), app_user="daemon")
    for name in ("media", "logs"):
        (tmp_path / name).mkdir()
        shutil.chown(tmp_path / name, "daemon", "daemon")
    assert permissions.unwritable(system) is None
    (tmp_path / "logs/django.log").touch(mode=0o640)
    (tmp_path / "logs/old.log.1").touch(mode=0o640)
    shutil.chown(tmp_path / "logs/django.log", "daemon", "daemon")
    (tmp_path / "logs/django.log").chmod(0o440)
    shutil.chown(tmp_path / "media", "bin", "bin")
    found = permissions.unwritable(system)
    assert found.evidence == f"daemon cannot write {tmp_path}/media, {tmp_path}/logs/django.log"
    found.fix()
    assert permissions.unwritable(system) is None
    assert permissions.access(tmp_path / "logs/django.log") == "640 daemon:daemon"
    assert permissions.access(tmp_path / "logs/old.log.1") == "640 root:root"


@as_root
def test_log_of_a_third_user_is_given_by_hand(tmp_path: Path) -> None:
    """The app may have put there whatever that user has in a directory that the app may write."""
    reachable(tmp_path)
    shutil.chown(tmp_path, "bin")
    system = fake_system(app_dir=str(tmp_path), app_user="daemon")
    for name in ("media", "logs"):
        (tmp_path / name).mkdir()
        shutil.chown(tmp_path / name, "daemon", "daemon")
    (tmp_path / "logs/django.log").touch(mode=0o640)
    shutil.chown(tmp_path / "logs/django.log", "bin", "bin")
    found = permissions.unwritable(system)
    assert found.fix is None
    assert found.remedy.endswith(f"chown -h daemon {tmp_path}/logs/django.log")


@as_root
def test_directory_outside_the_app_is_its_owners(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "photos").mkdir(mode=0o700)
    system = fake_system(
        app_dir=f"{tmp_path}/app",
        app_user="daemon",
        app_writable=(f"{tmp_path}/photos", "media"),
    )
    assert permissions.unwritable(system).fix is None


# -- services


@pytest.mark.parametrize(
    ("shown", "saw", "grace"),
    [
        ({}, None, 0),
        ({"ActiveState": "failed", "SubState": "failed"}, "failed (failed)", 0.5),
        ({"ActiveState": "activating", "SubState": "start"}, "activating (start)", 45),
        ({"ActiveState": "deactivating"}, "deactivating (running)", 45),
        (
            {"ActiveState": "inactive", "SubState": "dead", "Job": "77"},
            "inactive (dead)",
            45,
        ),
        ({"ActiveState": "inactive", "LoadState": "masked"}, "inactive (running), masked", 0),
    ],
)
def test_service_that_is_down_is_told(shown: dict[str, str], saw: str | None, grace: float) -> None:
    system = fake_system()
    system.units = {"nginx": {**UP, **shown}}
    system.down_for = lambda _: 1.5
    found = units.is_running(system, "nginx", "why")
    assert (found.level, found.impact) == (("wrong", "why") if saw else ("ok", ""))
    assert not saw or (found.evidence, found.grace) == (saw, grace)


@pytest.mark.parametrize(
    ("state", "calls"),
    [
        ("inactive", ["systemctl start nginx"]),
        ("failed", ["systemctl reset-failed nginx", "systemctl start nginx"]),
    ],
)
def test_service_that_failed_too_often_is_started_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, calls: list[str]
) -> None:
    """systemd knows nothing to reset of a unit that it has put out of its mind."""
    programs = Programs(tmp_path, monkeypatch)
    programs.add("systemctl")
    repairs.start("nginx", state)
    assert programs.calls() == calls


def journalctl(path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    programs = Programs(path, monkeypatch)
    programs.add("journalctl", script)
    monkeypatch.setattr(journal, "JOURNALCTL", str(programs.bin / "journalctl"))


@as_root
@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("echo newer; echo older", ["newer", "older"]),
        ("exit 1", []),
        ("echo newest; exec sleep 60", ["newest"]),
        ("echo newest; exec yes", ["newest"]),
    ],
    ids=["found", "none", "slow", "endless"],
)
def test_journal_is_read_within_its_time_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, lines: list[str]
) -> None:
    journalctl(tmp_path, monkeypatch, script)
    monkeypatch.setattr(journal, "TIMEOUT", 1)
    read = journal.matching("celery-worker", "-1h", "x")
    assert [line for line in read if line.strip("y")] == lines
    assert len(read) <= journal.LARGEST


@as_root
def test_journal_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journalctl(tmp_path, monkeypatch, "echo 'no PCRE2' >&2; exit 1")
    with pytest.raises(Failed, match="no PCRE2"):
        journal.matching("celery-worker", "-1h", "x")


def test_service_that_is_not_enabled_is_enabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs(tmp_path, monkeypatch)
    programs.add("systemctl")
    system = fake_system()
    system.units = {"a": {"UnitFileState": "enabled"}, "b": {"UnitFileState": "disabled"}}
    units.disabled(system).fix()
    assert programs.calls() == ["systemctl enable --quiet b"]


@as_root
@pytest.mark.parametrize(
    ("number", "age", "told"), [(0, 10, False), (2, 10, True), (2, 7200, False)]
)
def test_restarts_of_the_last_hour_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    age: int,
    told: bool,
) -> None:
    journalctl(tmp_path, monkeypatch, "echo 'Watchdog timeout (limit 30s)!'")
    system = fake_system()
    system.units = {"celery-worker": {**UP, "NRestarts": str(number)}}
    system.since = lambda _: time.time() - age
    found = restarts.restarts(system)
    assert (found is not None) is told
    assert not told or "celery-worker (2 times)" in found.evidence
    assert not told or "Watchdog timeout" in found.evidence


# -- code, leftovers, certificates


@pytest.fixture
def project(tmp_path: Path) -> Any:
    """An app, which its services have loaded."""
    (tmp_path / "app/venv").mkdir(parents=True)
    (tmp_path / "media").mkdir()
    (tmp_path / "app/tasks.py").touch()
    system = fake_system(app_dir=str(tmp_path), app_user=ME)
    system.units = {"celery-worker": {**UP, "MainPID": str(os.getpid())}, "celery-beat": UP}
    started = time.time() + 1
    system.since = lambda _: started
    return SimpleNamespace(system=system, path=tmp_path)


@as_root
def test_newer_code_is_old_to_the_services(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Programs(project.path, monkeypatch).add("systemctl")
    assert app.old(project.system) is None
    project.system.since = lambda _: time.time() - 70
    found = app.old(project.system)
    assert "celery-worker and celery-beat started 1 min" in found.evidence
    assert "app/tasks.py came" in found.evidence
    project.system.units["celery-worker"]["ActiveState"] = "failed"
    assert app.old(project.system).evidence.startswith("celery-beat started")


@as_root
def test_only_code_of_the_app_counts(project: Any) -> None:
    for name in ("app/venv/x.py", "media/upload.py", ".git/x.py", "app/page.html"):
        path = project.path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = [Path(line.split(" ", 1)[1]).name for line in app.code(project.system)]
    assert found == ["tasks.py"]


@as_root
def test_the_environment_that_is_named_is_no_code_of_the_app(project: Any) -> None:
    project.system.settings["app_venv_dir"] = "prod"
    for name in ("prod/x.py", "app/prod/y.py"):
        (project.path / name).parent.mkdir()
        (project.path / name).touch()
    found = {Path(line.split(" ", 1)[1]).name for line in app.code(project.system)}
    assert found == {"tasks.py", "y.py"}


@as_root
def test_code_that_keeps_its_age_is_new_here(project: Any) -> None:
    """As rsync and tar leave it."""
    copied = project.path / "app/models.py"
    copied.touch()
    os.utime(copied, (1, 1))
    assert time.time() - app.changed(project.system)[0] < 60


@as_root
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", []),
        ("echo 'celery-pi: no queue ocr' >&2; exit 1", ["no queue ocr"]),
        ("exit 1", ["celery-pi check ended without a word"]),
    ],
)
def test_check_says_why_the_worker_would_not_run(
    project: Any, monkeypatch: pytest.MonkeyPatch, script: str, said: list[str]
) -> None:
    programs = Programs(project.path, monkeypatch)
    programs.add("celery-pi", script)
    monkeypatch.setattr(app, "COMMAND", str(programs.bin / "celery-pi"))
    assert app.unfit(project.system) is None
    assert programs.calls() == [], "there is no reason to load the app"
    project.system.units["celery-worker"]["ActiveState"] = "failed"
    found = app.unfit(project.system)
    assert (found.evidence if found else "") == "; ".join(said)
    programs.add("systemctl")
    project.system.units["celery-worker"]["ActiveState"] = "active"
    project.system.since = lambda _: 0
    if said:
        with pytest.raises(Failed, match=said[0]):
            app.old(project.system).fix()
    else:
        programs.calls()
        app.old(project.system).fix()
        assert programs.calls() == [
            "celery-pi check",
            "systemctl --no-block restart celery-worker",
            "systemctl --no-block restart celery-beat",
        ]


def test_directory_that_was_made_anew_is_found(project: Any) -> None:
    if ME == "root":
        assert app.replaced(project.system) is None
    assert app.is_other(Path("/nonexistent"), str(project.path))


@as_root
def test_stale_pid_file_is_removed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "PLACES", ())
    texts = {
        **{"celerybeat.pid": "4194999", "celery-alive.pid": str(os.getpid())},
        **{"gunicorn.pid": "4194999", "celery-empty.pid": ""},
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / "celery-fresh.pid").write_text("4194999")
    system = fake_system(app_dir=str(tmp_path))
    found = leftovers.stale(system)
    assert found.evidence.startswith(f"{tmp_path}/celerybeat.pid names")
    found.fix()
    assert leftovers.stale(system) is None
    assert {path.name for path in tmp_path.iterdir()} == {*texts, "celery-fresh.pid"} - {
        "celerybeat.pid"
    }


@as_root
@pytest.mark.parametrize("what", ["fifo", "device", "sparse file", "link to another"])
def test_pid_file_that_is_none_is_passed_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(leftovers, "PLACES", ())
    monkeypatch.setattr(leftovers, "FRESH", -1)
    path = tmp_path / "celerybeat.pid"
    (tmp_path / "another").write_text("4194999")
    if what == "link to another":
        path.symlink_to(tmp_path / "another")
    else:
        put(path, what)
    begun = time.monotonic()
    assert leftovers.stale(fake_system(app_dir=str(tmp_path))) is None
    assert time.monotonic() - begun < 2


@as_root
def test_pid_file_of_roots_is_not_followed_to_where_the_app_then_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is replaced by a link to a file of root's after it was looked at."""
    with tempfile.TemporaryDirectory(prefix="celery-pi-test-", dir="/srv") as place:
        Path(place).chmod(0o755)
        secret = Path(place, "secret")
        secret.write_text("4194999")
        secret.chmod(0o600)
        project = Path(place, "app")
        project.mkdir()
        shutil.chown(project, "www-data")
        file = project / "celerybeat.pid"
        monkeypatch.setattr(leftovers, "FRESH", -1)
        file.write_text("4194999")
        assert leftovers.is_stale(file), "where its content may be read"
        real = os.lstat

        def overtaken(path: Any, **how: Any) -> os.stat_result:
            shown = real(path, **how)
            if path == file and not file.is_symlink():
                file.unlink()
                file.symlink_to(secret)
            return shown

        monkeypatch.setattr(os, "lstat", overtaken)
        assert not leftovers.is_stale(file)
        assert file.is_symlink()


def test_damaged_schedule_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "DAMAGED", tmp_path / "schedule.damaged")
    assert leftovers.damaged(None) is None
    (tmp_path / "schedule.damaged").touch()
    assert leftovers.damaged(None)


@pytest.mark.parametrize(("days", "soon"), [(90, False), (13, True)])
def test_certificate_that_ends_soon_is_told(tmp_path: Path, days: int, soon: bool) -> None:
    path = tmp_path / "pair.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]
    made = ["openssl", "req", "-x509", *key, "-days", str(days), "-keyout", "/dev/null"]
    subprocess.run([*made, "-out", path], check=True, capture_output=True)
    assert certificates.ends_soon(str(path)) is soon
    path.write_text("no certificate")
    assert certificates.ends_soon(str(path))


def test_certificates_that_are_served_are_looked_at() -> None:
    served = certificates.served
    assert served(fake_system()) == [certificates.SITE]
    assert served(fake_system(flower=False)) == []
    assert served(fake_system(nginx_server=False, redis_tls=True)) == list(certificates.REDIS)
    own: Any = {"nginx_certificate": "/etc/own.pem", "nginx_certificate_key": "/etc/own.key"}
    assert served(fake_system(**own)) == ["/etc/own.pem"]
    assert certificates.renewal("/etc/own.pem") is None


# -- drift


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Files as a deploy has left them: `declared.left(a="sha256 or not")`."""
    monkeypatch.setattr(manifest, "FILE", tmp_path / "manifest.json")

    def left(**files: bool) -> None:
        states = {
            str(tmp_path / name): state(tmp_path / name, told) for name, told in files.items()
        }
        (tmp_path / "manifest.json").write_text(merged({}, {}, states))

    def state(path: Path, told: bool) -> list[str]:
        path.write_text(path.name)
        digest = hashlib.sha256(path.name.encode()).hexdigest() if told else "-"
        access = permissions.access(path).replace(":", " ").split()
        return [*access, digest]

    def found(*concerned: str) -> Any:
        seen = fake_system()
        seen.concerned = frozenset(concerned)
        told = drift.drift(seen)
        return told if told.impact else None

    return SimpleNamespace(left=left, drift=found)


@as_root
def test_file_that_is_as_it_was_deployed_is_no_drift(declared: Any, tmp_path: Path) -> None:
    assert declared.drift() is None, "before the first deploy that tells"
    declared.left(a=True, secret=False)
    (tmp_path / "secret").write_text("another one")
    assert declared.drift() is None


@as_root
@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda path: path.write_text("by hand"), "was changed"),
        (lambda path: path.chmod(0o601), "is 601 "),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.rename(path.with_name("x")) and path.symlink_to("x"), "is no file"),
    ],
)
def test_file_that_is_another_is_told(declared: Any, tmp_path: Path, change: Any, how: str) -> None:
    declared.left(a=True, b=True)
    change(tmp_path / "b")
    found = declared.drift()
    assert found.evidence.startswith(f"{tmp_path / 'b'} {how}")
    assert found.fix is None
    assert declared.drift(str(tmp_path / "b")) is None, "another problem tells of it"


@as_root
def test_few_of_many_are_named(declared: Any, tmp_path: Path) -> None:
    declared.left(**dict.fromkeys("abcdef", True))
    for name in "abcdef":
        (tmp_path / name).write_text("by hand")
    assert declared.drift().evidence.endswith("c was changed and 3 others")


@as_root
@pytest.mark.parametrize("what", ["fifo", "device", "sparse file", "directory"])
def test_what_is_no_file_any_more_is_told_at_once(declared: Any, tmp_path: Path, what: str) -> None:
    declared.left(a=True)
    path = tmp_path / "a"
    path.unlink()
    put(path, what)
    begun = time.monotonic()
    assert declared.drift().evidence.startswith(f"{path} ")
    assert time.monotonic() - begun < 1


@as_root
def test_file_below_a_directory_of_anothers_is_not_opened(declared: Any, tmp_path: Path) -> None:
    declared.left(a=True)
    shutil.chown(tmp_path, "daemon")
    lies = f"{tmp_path / 'a'} lies in {tmp_path}, where others than root may write"
    assert declared.drift().evidence == lies
