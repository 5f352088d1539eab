"""A service is started again exactly when what it runs is not what is on the disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest
from pyinfra import host
from pyinfra.api import StringCommand, operation

from celery_pi.operations import service as module
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.service import Running, _reason, service
from celery_pi.shell import is_announced, restart_is_announced
from tests.helpers.fake import ME, Programs, Run, as_root, run

UNIT = "thing.service"

# systemd, as far as the operation knows it: one file for each thing it can say of a unit.
SYSTEMCTL = """
cd "$state"
case $1 in
  show)
    read -r active <active; read -r enabled <enabled; read -r reload <reload
    echo "ActiveState=$active"; echo "UnitFileState=$enabled"; echo "NeedDaemonReload=$reload"
    echo "TimeoutStopUSec=30min 30s" ;;
  daemon-reload) echo no >reload ;;
  enable) echo enabled >enabled ;;
  reload) ;;
  reset-failed) echo inactive >active ;;
  restart)
    [ ! -e killed ] || kill -9 $PPID
    [ ! -e broken ] || { echo failed >active; exit 1; }
    echo active >active ;;
esac
"""


class Systemd:
    """One unit, the files it reads, and the record of its last start."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = Programs(directory, monkeypatch)
        self.state = directory / "state"
        self.state.mkdir()
        self.programs.add("systemctl", f"state={self.state}{SYSTEMCTL}")
        self.programs.add("journalctl", "echo noise; echo 'celery-pi: the reason'; echo noise")
        monkeypatch.setattr(module, "RECORDS", str(directory / "records"))
        self.record = directory / "records" / UNIT
        self.config = directory / "x.conf"
        self.watched = directory / "watched"
        self.folder = directory / "folder"
        self.config.write_text("declared\n")
        self.watched.write_text("watched\n")
        self.folder.mkdir()
        self.say(active="inactive", enabled="disabled", reload="no")

    def say(self, **facts: str) -> None:
        for name, fact in facts.items():
            (self.state / name).write_text(f"{fact}\n")

    def operation(self, more: Sequence[Path] = (), **given: object) -> object:
        watch = [str(path) for path in (self.config, self.watched, self.folder, *more)]
        return service(name="Run", unit=UNIT, watch=watch, **given)  # type: ignore[arg-type]

    def configure(self, content: str) -> object:
        file = ConfigFile(str(self.config), content, user=ME, group=self.config.group())
        return config_files(name="Configure", files=[file])

    def deploy(self, **given: object) -> Run:
        self.programs.calls()
        return run(lambda: self.operation(**given))  # type: ignore[arg-type]

    def plan(self, **given: object) -> Run:
        return run(lambda: self.operation(**given), dry=True)  # type: ignore[arg-type]

    def calls(self) -> list[str]:
        """What systemd was told to do; what it was asked is left out."""
        asked = ("systemctl show", "journalctl")
        return [call for call in self.programs.calls() if not call.startswith(asked)]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    return Systemd(tmp_path, monkeypatch)


@pytest.fixture
def running(systemd: Systemd) -> Systemd:
    """The service is deployed and nothing is to be done."""
    assert systemd.deploy().changed == [True]
    systemd.programs.calls()
    return systemd


ENABLE = f"systemctl enable --quiet {UNIT}"
RELOAD = "systemctl daemon-reload"
RESTART = f"systemctl restart {UNIT}"


@pytest.mark.parametrize(
    ("before", "calls"),
    [
        ({}, [ENABLE, RESTART]),
        ({"enabled": "enabled"}, [RELOAD, RESTART]),
        ({"active": "failed"}, [ENABLE, f"systemctl reset-failed {UNIT}", RESTART]),
    ],
)
def test_first_deploy_does_what_is_needed_and_no_more(
    systemd: Systemd, before: dict[str, str], calls: list[str]
) -> None:
    systemd.say(**before)
    done = systemd.deploy()
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert systemd.calls() == calls


def test_service_that_runs_what_is_on_the_disk_is_left_alone(running: Systemd) -> None:
    done = running.deploy()
    assert (done.planned, done.changed) == ([False], [False])
    assert running.calls() == []
    assert len(running.plan().commands) == 1


def test_what_needs_only_a_reload_gets_one_and_no_restart(systemd: Systemd) -> None:
    page = systemd.config.parent / "page"
    page.write_text("old\n")
    given = {"reload_for": [str(page)]}
    systemd.deploy(**given)
    systemd.calls()
    page.write_text("new\n")
    assert systemd.deploy(**given).changed == [True]
    assert systemd.calls() == [RELOAD, f"systemctl reload {UNIT}"]
    assert systemd.deploy(**given).changed == [False]
    page.write_text("newer\n")
    systemd.watched.write_text("also\n")
    systemd.deploy(**given)
    assert systemd.calls() == [RELOAD, RESTART]


def test_unit_whose_check_fails_is_left_running_and_is_tried_again(running: Systemd) -> None:
    running.watched.write_text("bad\n")
    failed = running.deploy(check="echo no good; false")
    assert failed.changed == [False]
    assert "no good" in failed.shown
    assert running.calls() == [RELOAD]
    assert running.deploy(check="true").changed == [True]
    assert running.calls() == [RELOAD, RESTART]


def edit(path: Path, content: str) -> None:
    """Write, and keep the modification time."""
    before = path.stat()
    path.write_text(content)
    os.utime(path, (before.st_atime, before.st_mtime))


def later(path: Path) -> None:
    seen = path.stat()
    os.utime(path, (seen.st_atime, seen.st_mtime + 1))


DRIFTS: dict[str, Callable[[Systemd], object]] = {
    "stopped": lambda pi: pi.say(active="inactive"),
    "starting for ever": lambda pi: pi.say(active="activating"),
    "content of a watched file": lambda pi: edit(pi.watched, "other\n"),
    "time of a watched file": lambda pi: later(pi.watched),
    "time of a declared file": lambda pi: later(pi.config),
    "time of a watched folder": lambda pi: later(pi.folder),
    "watched file gone": lambda pi: pi.watched.unlink(),
    "record gone": lambda pi: pi.record.unlink(),
}


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=list(DRIFTS))
def test_drift_is_planned_and_mended_by_one_restart(
    running: Systemd, drift: Callable[[Systemd], object]
) -> None:
    drift(running)
    done = running.deploy()
    assert (done.planned, done.changed) == ([True], [True])
    assert running.calls() == [RELOAD, RESTART]
    assert running.plan().planned == [False]


def test_plan_asks_and_does_nothing(running: Systemd) -> None:
    running.say(active="inactive", enabled="disabled", reload="yes")
    assert running.plan().planned == [True]
    assert running.calls() == []


def test_watched_file_that_appears_is_a_restart(systemd: Systemd) -> None:
    systemd.watched.unlink()
    systemd.deploy()
    systemd.watched.write_text("new\n")
    assert systemd.plan().planned == [True]


def test_path_that_joins_the_watched_ones_is_a_restart(running: Systemd) -> None:
    assert running.plan(more=[running.state]).planned == [True]


def test_write_that_was_planned_is_planned_as_a_restart_too(running: Systemd) -> None:
    def task() -> None:
        running.configure("changed\n")
        running.operation()

    plan = run(task, dry=True)
    assert plan.planned == [True, True]
    assert f"Will restart {UNIT}: {running.config} will change" in plan.shown
    assert running.calls() == []


def test_write_and_restart_are_one_run_and_settle(running: Systemd) -> None:
    def task() -> None:
        running.configure("changed\n")
        running.operation()

    done = run(task)
    assert (done.planned, done.changed) == ([True, True], [True, True])
    assert running.calls() == [RELOAD, RESTART]
    assert run(task).changed == [False, False]


def test_write_that_another_run_made_meanwhile_restarts_nothing(running: Systemd) -> None:
    edit(running.config, "edited\n")

    def task() -> None:
        running.configure("declared\n")
        running.operation()
        edit(running.config, "declared\n")  # after the plan and before the run

    done = run(task)
    assert (done.planned, done.changed) == ([True, True], [False, False])
    assert running.calls() == []


def test_write_that_failed_leaves_the_service_alone(running: Systemd) -> None:
    def task() -> None:
        file = ConfigFile(str(running.config), "bad\n", ME, check="false")
        config_files(name="Configure", files=[file])
        running.operation()

    assert run(task).error
    assert running.calls() == []
    assert running.plan().planned == [False]


@pytest.mark.parametrize("change", ["none", "mode", "other file"])
def test_operation_that_gives_no_watched_file_other_content_is_no_restart(
    running: Systemd, tmp_path: Path, change: str
) -> None:
    running.config.chmod(0o600 if change == "mode" else 0o644)
    watched = running.config
    if change == "other file":
        running.config = tmp_path / "unwatched"
        running.config.touch()

    def task() -> None:
        running.configure("declared\n")
        running.config = watched
        running.operation()

    done = run(task)
    assert (done.planned[1], done.changed[1]) == (False, False)
    assert done.changed[0] == (change != "none")
    assert running.calls() == []


@pytest.mark.parametrize(
    ("facts", "calls"),
    [
        ({"enabled": "disabled"}, [f"systemctl enable --quiet {UNIT}"]),
        ({"enabled": ""}, [f"systemctl enable --quiet {UNIT}"]),
        ({"reload": "yes"}, [RELOAD]),
        (
            {"enabled": "disabled", "reload": "yes"},
            [f"systemctl enable --quiet {UNIT}", RELOAD],
        ),
    ],
)
def test_enabling_and_reloading_need_no_restart(
    running: Systemd, facts: dict[str, str], calls: list[str]
) -> None:
    running.say(**facts)
    assert running.deploy().changed == [True]
    assert running.calls() == calls
    assert running.plan().planned == [False]


FAILURES: dict[str, Callable[[Systemd], object]] = {
    "systemd could not start it": lambda pi: pi.say(broken=""),
    "the run was killed in the restart": lambda pi: pi.say(killed=""),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
def test_start_that_failed_is_not_recorded_and_the_next_deploy_starts_again(
    running: Systemd, failure: Callable[[Systemd], object]
) -> None:
    recorded = running.record.read_bytes()
    running.watched.write_text("changed\n")
    failure(running)
    assert running.deploy().error
    assert running.record.read_bytes() == recorded
    running.say(active="active")  # systemd brought it up meanwhile, from whichever files
    for fault in ("broken", "killed"):
        (running.state / fault).unlink(missing_ok=True)
    done = running.deploy()
    assert (done.planned, done.changed) == ([True], [True])
    assert running.calls() == [RELOAD, RESTART]
    assert running.plan().planned == [False]


def test_service_that_is_never_ready_fails_the_deploy_and_is_started_again(
    running: Systemd,
) -> None:
    recorded = running.record.read_bytes()
    running.watched.write_text("changed\n")
    done = running.deploy(ready="echo not yet; false")
    assert done.error
    assert "not yet" in done.shown
    assert f"{UNIT} did not come up; see: journalctl -u {UNIT}" in done.shown
    assert running.record.read_bytes() == recorded
    assert running.plan().planned == [True]


def test_service_that_could_not_do_its_work_is_not_stopped_and_the_reason_is_told(
    running: Systemd,
) -> None:
    recorded = running.record.read_bytes()
    running.watched.write_text("changed\n")
    done = running.deploy(check="echo the reason; false")
    assert done.error
    assert "the reason" in done.shown
    assert f"{UNIT} is not started again: what runs is left as it is" in done.shown
    assert running.calls() == [RELOAD]  # so that the check sees the unit that is on the disk
    assert running.record.read_bytes() == recorded
    assert running.deploy(check="true").changed == [True]
    assert running.calls() == [RELOAD, RESTART]


def test_service_that_runs_what_is_on_the_disk_is_not_checked(running: Systemd) -> None:
    assert running.deploy(check="false").changed == [False]


@pytest.mark.parametrize(("active", "told"), [("active", True), ("inactive", False)])
def test_how_long_a_service_may_take_to_finish_is_told_before_it_is_stopped(
    running: Systemd, active: str, told: bool
) -> None:
    running.say(active=active)
    running.watched.write_text("changed\n")
    words = f"{UNIT} finishes its work first, within 30min 30s"
    assert words not in running.plan(drains=True).shown
    assert (words in running.deploy(drains=True).shown) == told


def test_reason_in_the_journal_is_told_and_nothing_else_of_it(running: Systemd) -> None:
    running.say(active="failed", broken="")
    done = running.deploy()
    assert "celery-pi: the reason" in done.shown.splitlines()
    assert "noise" not in done.shown.splitlines()


def test_file_that_changes_while_the_service_starts_is_a_restart_next_time(
    running: Systemd,
) -> None:
    running.say(active="inactive")
    assert running.deploy(ready=f"echo late >{running.watched}").changed == [True]
    assert running.deploy().changed == [True]
    assert running.plan().planned == [False]


def test_record_tells_digest_time_and_path_of_what_lay_there(running: Systemd) -> None:
    digest = hashlib.sha256(b"watched\n").hexdigest()
    seconds = int(running.watched.stat().st_mtime)
    lines = running.record.read_text().splitlines()
    assert {f"time {seconds} {running.watched}", f"{digest}  {running.watched}"} <= set(lines)
    assert f"time {int(running.folder.stat().st_mtime)} {running.folder}" in lines
    assert list(running.record.parent.iterdir()) == [running.record]


def test_copy_of_the_system_that_drops_fractions_of_seconds_restarts_nothing(
    running: Systemd,
) -> None:
    for path in (running.config, running.watched, running.folder):
        whole = int(path.stat().st_mtime)
        os.utime(path, (whole, whole))
    assert running.deploy().changed == [False]


@pytest.mark.parametrize("ready", ["exit 1", "false", "true; exit 2"])
def test_command_that_says_ready_may_end_its_shell(running: Systemd, ready: str) -> None:
    recorded = running.record.read_bytes()
    running.watched.write_text("changed\n")
    done = running.deploy(ready=ready)
    assert done.error
    assert f"{UNIT} did not come up" in done.shown
    assert running.record.read_bytes() == recorded
    assert running.deploy(ready="exit 0").changed == [True]
    assert running.plan().planned == [False]


# -- a unit of the site


@pytest.mark.parametrize("active", ["inactive", "failed", "activating", "deactivating"])
def test_unit_of_the_site_that_does_not_run_is_left_alone(systemd: Systemd, active: str) -> None:
    systemd.say(active=active, reload="yes")
    done = systemd.deploy(managed=False)
    assert (done.planned, done.changed, done.error) == ([False], [False], "")
    assert systemd.calls() == []
    assert not systemd.record.exists()


@pytest.mark.parametrize("enabled", ["enabled", "disabled", "static", ""])
def test_unit_of_the_site_that_runs_is_started_again_and_never_enabled(
    systemd: Systemd, enabled: str
) -> None:
    systemd.say(active="active", enabled=enabled)
    done = systemd.deploy(managed=False)
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert systemd.calls() == [RELOAD, RESTART]
    again = systemd.deploy(managed=False)
    assert (again.planned, again.changed) == ([False], [False])
    assert f"{UNIT} runs what is on the disk, or is not to run" in again.shown
    assert systemd.calls() == []


def test_unit_of_the_site_is_started_again_for_a_write_that_is_planned(running: Systemd) -> None:
    def task() -> None:
        running.configure("changed\n")
        running.operation(managed=False)

    assert run(task).changed == [True, True]
    assert running.calls() == [RELOAD, RESTART]


@pytest.mark.parametrize("facts", [{"enabled": "disabled"}, {"reload": "yes"}])
def test_unit_of_the_site_that_needs_no_restart_is_neither_enabled_nor_reloaded(
    running: Systemd, facts: dict[str, str]
) -> None:
    running.say(**facts)
    assert running.deploy(managed=False).changed == [False]
    assert running.calls() == []


# -- word of a restart that is planned


def announced(systemd: Systemd, dry: bool, **given: object) -> bool:
    """Whether what comes behind knows, when it is planned, that the unit is started again."""
    seen: list[bool] = []

    def task() -> None:
        systemd.operation(**given)  # type: ignore[arg-type]
        seen.append(restart_is_announced(host, UNIT))
        assert not restart_is_announced(host, "other.service")
        assert not is_announced(host, UNIT)  # a file of that name

    run(task, dry=dry)
    return seen == [True]


@pytest.mark.parametrize("managed", [False, True])
def test_restart_is_announced_where_one_is_planned(running: Systemd, managed: bool) -> None:
    assert not announced(running, dry=True, managed=managed)
    running.watched.write_text("changed\n")
    assert announced(running, dry=True, managed=managed)


def test_restart_is_not_announced_where_enabling_is_enough(running: Systemd) -> None:
    running.say(enabled="disabled", reload="yes")
    assert not announced(running, dry=True)
    running.say(active="inactive")
    assert not announced(running, dry=True, managed=False)


def test_once_the_run_is_under_way_no_restart_is_announced(running: Systemd) -> None:
    running.say(active="inactive")
    seen: list[bool] = []

    @operation()
    def looks() -> Generator[StringCommand]:
        seen.append(restart_is_announced(host, UNIT))
        yield StringCommand("true")

    def task() -> None:
        running.operation()
        looks(name="Look")

    run(task)
    assert seen == [True, False]


ONE = {"/x": ("digest", "1")}


@pytest.mark.parametrize(
    ("now", "then", "active", "announced", "reason"),
    [
        (ONE, ONE, True, False, ""),
        (ONE, ONE, False, False, "it is not running"),
        ({}, {}, False, True, "it is not running"),
        (ONE, {"/x": ("other", "1")}, True, False, "/x changed since it was started"),
        (ONE, {"/x": ("digest", "2")}, True, False, "/x changed since it was started"),
        (ONE, {}, True, False, "/x changed since it was started"),
        (ONE, {**ONE, "/no-longer-watched": ("d", "1")}, True, False, ""),
        (ONE, ONE, True, True, "/x will change"),
    ],
)
def test_restart_is_decided_from_state_and_from_what_is_planned(
    monkeypatch: pytest.MonkeyPatch,
    now: dict[str, tuple[str, str]],
    then: dict[str, tuple[str, str]],
    active: bool,
    announced: bool,
    reason: str,
) -> None:
    monkeypatch.setattr(module, "is_announced", lambda *_: announced)
    state = Running(
        active=active, enabled=True, needs_reload=False, stop_timeout="", now=now, then=then
    )
    assert _reason(state, ["/x"]) == reason


@as_root
@pytest.mark.parametrize("what", ["fifo", "device", "sparse", "socket"])
def test_what_others_put_in_the_place_of_a_watched_file_is_not_waited_for(
    systemd: Systemd, what: str
) -> None:
    systemd.watched.unlink()
    if what == "fifo":
        os.mkfifo(systemd.watched)
    elif what == "device":
        systemd.watched.symlink_to("/dev/zero")
    elif what == "sparse":
        systemd.watched.touch()
        os.truncate(systemd.watched, 8 * 2**30)
    else:
        with socket.socket(socket.AF_UNIX) as there:
            there.bind(str(systemd.watched))
    started = time.monotonic()
    assert systemd.deploy().changed == [True]
    assert systemd.deploy().changed == [False]
    assert time.monotonic() - started < 10
    systemd.watched.unlink()
    systemd.watched.write_text("watched\n")
    assert systemd.deploy().changed == [True]


def test_file_that_is_swapped_while_it_is_read_ends_with_the_time(
    running: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a hook, which is what a race comes to: the digest waits on what is no file any more."""
    monkeypatch.setattr(module, "SNAPSHOT", module.SNAPSHOT.replace("KILL 20", "KILL 1"))
    running.programs.add("sha256sum", "sleep 60")
    started = time.monotonic()
    assert running.plan().planned == [True]
    assert time.monotonic() - started < 10


@as_root
def test_what_is_not_roots_is_read_by_its_owner(systemd: Systemd, tmp_path: Path) -> None:
    """A link of his leads him, and not root, to a file of root's."""
    secret = tmp_path / "secret"
    secret.write_text("root's own")
    secret.chmod(0o600)
    systemd.watched.unlink()
    systemd.watched.symlink_to(secret)
    os.chown(systemd.watched, 65534, 65534, follow_symlinks=False)
    assert systemd.deploy().changed == [True]
    told = systemd.record.read_text()
    assert str(systemd.watched) in told
    assert hashlib.sha256(b"root's own").hexdigest() not in told
    systemd.watched.unlink()
    systemd.watched.write_text("his own")
    shutil.chown(systemd.watched, "nobody")
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(path.stat().st_mode | 0o055)
    assert systemd.deploy().changed == [True]
    assert hashlib.sha256(b"his own").hexdigest() in systemd.record.read_text()
