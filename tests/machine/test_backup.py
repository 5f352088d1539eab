"""Backups on the machine: made under load, restored on another, tried, and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.harness import APP, in_app, pids, prove, pyinfra, redis, wait_for
from tests.helpers.status_output import CALM, ask
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

PLACE = "/var/backups/celery-pi"
STATE = "/var/lib/celery-pi"
NOTES = f"{APP}/media/noted"
DATABASE = f"{APP}/db.sqlite3"
BACKUP, DRILL = "celery-pi-backup", "celery-pi-drill"
COMPONENT = ("--json", "-y", "inventory.py", "tasks.backup.deploy")
OFF = ("--data", "backup=False", *COMPONENT)

# The default path is in a directory that the app cannot write to; its own is behind a link.
MAKE = """
import sqlite3
database = sqlite3.connect("data/db.sqlite3")
database.execute("PRAGMA journal_mode=wal")
database.execute("CREATE TABLE birds (name TEXT)")
database.execute("INSERT INTO birds VALUES ('kestrel')")
database.commit()
"""
READ = """
import sqlite3
print(sqlite3.connect("db.sqlite3").execute("SELECT name FROM birds").fetchall())
"""
RESULT = (
    "from observations_nids.tasks import add; r = add.delay(2, 40); r.get(timeout=60); print(r.id)"
)
SEND = """
from observations_nids.tasks import note
for number in range(4000):
    note.delay("noted", number)
"""
# The newest with another manifest, sealed anew.
AGE = """
import pathlib, sys, tempfile
sys.path.append("/usr/local/lib/celery-pi/tools")
from celery_pi_tools.backup import archive
from celery_pi_tools.backup.common import backups
file, into = backups()[-1], pathlib.Path(tempfile.mkdtemp(dir="/var/tmp"))
manifest = archive.unpack(file, into, archive.names(file))
manifest["made"] -= 27 * 3600
file.unlink()
archive.write(file, manifest, {each["name"]: into / each["name"] for each in manifest["members"]})
"""


@pytest.fixture(scope="module", autouse=True)
def _as_found(pi: VirtualPi) -> Iterator[None]:
    pi.run(*CALM)
    in_app(pi, MAKE)
    pi.run("ln", "-s", "data/db.sqlite3", DATABASE)
    yield
    pi.run("sh", "-c", f"rm -f {PLACE}/* {STATE}/backup.json {STATE}/drill.json {NOTES}")
    pi.run("sh", "-c", f"rm -f {DATABASE} {APP}/data/db.sqlite3*; rm -rf {STATE}/before-restore-*")


def files(pi: VirtualPi) -> list[str]:
    return sorted(pi.run("ls", PLACE).stdout.split())


def make(pi: VirtualPi) -> str:
    """Path of a new backup."""
    assert pi.run("celery-pi", "backup").stdout.startswith(f"celery-pi: {PLACE}/")
    return f"{PLACE}/{files(pi)[-1]}"


def run_unit(pi: VirtualPi, unit: str) -> int:
    return pi.run("systemctl", "start", f"{unit}.service", check=False).returncode


def says(pi: VirtualPi, unit: str, reason: str) -> None:
    """The last thing that it said; the journal has it soon."""
    show = ("journalctl", "-q", "-o", "cat", "-n", "20", "-u", unit)

    def last() -> bool:
        lines = [line for line in pi.run(*show).stdout.splitlines() if line[:10] == "celery-pi:"]
        return re.search(reason, lines[-1]) is not None

    wait_for(f"it says {reason}", last)


def copy(pi: VirtualPi, path: str, other: VirtualPi) -> None:
    packed = pi.run("base64", path).stdout.encode()
    other.run("sh", "-c", f"umask 077; base64 -d >{path}", input=packed)


def length(pi: VirtualPi) -> int:
    return int(redis(pi, "llen", "celery"))


@pytest.fixture(scope="module")
def under_load(pi: VirtualPi) -> tuple[str, str, range]:
    """A backup made while the app sends tasks and nobody takes them; the task whose result is in
    it; how many tasks may be in it."""
    task = in_app(pi, RESULT)
    pi.run("systemctl", "stop", "celery-beat")
    wait_for("nothing waits", lambda: length(pi) == 0)
    pi.run("systemctl", "stop", "celery-worker")
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(in_app, pi, SEND)
        wait_for("tasks come", lambda: length(pi) > 100, 60)
        least = length(pi)
        path = make(pi)
        most = length(pi)
        sending.result()
    pi.run("systemctl", "start", "celery-worker", "celery-beat")
    wait_for("all have run", lambda: ran(pi) == list(range(4000)), 120)
    return path, task, range(least, most + 1)


def ran(pi: VirtualPi) -> list[int]:
    return sorted(map(int, pi.run("cat", NOTES, check=False).stdout.split()))


def test_backup_under_load_is_whole(pi: VirtualPi, under_load: tuple[str, str, range]) -> None:
    path = under_load[0]
    mode = ("stat", "-c", "%a %U:%G", PLACE, path)
    assert pi.run(*mode).stdout.split("\n")[:2] == ["700 root:root", "600 root:root"]
    listed = pi.run("tar", "tzf", path).stdout.split()
    assert listed == ["manifest.json", "redis/dump.rdb", "app/db.sqlite3", "app/.env"]
    manifest = json.loads(pi.run("tar", "xzOf", path, "manifest.json").stdout)
    pi.run("sh", "-c", f"tar xzOf {path} redis/dump.rdb >/root/dump.rdb")
    told = pi.run("redis-check-rdb", "/root/dump.rdb").stdout
    pi.run("rm", "/root/dump.rdb")
    keys = sum(each["keys"] for each in manifest["redis"]["databases"].values())
    assert f"[info] {keys} keys read" in told


def test_tasks_in_it_run_on_another_machine(
    second_pi: VirtualPi, pi: VirtualPi, under_load: tuple[str, str, range]
) -> None:
    path, task, most = under_load
    second_pi.run("ln", "-s", "data/db.sqlite3", DATABASE)
    second_pi.run("mkdir", "-p", PLACE)
    copy(pi, path, second_pi)
    told = second_pi.run("celery-pi", "restore", path, "--yes").stdout
    assert "what was there before is in /var/lib/celery-pi/before-restore-" in told
    pids(second_pi)
    wait_for("the queue is empty", lambda: length(second_pi) == 0, 120)
    wait_for("nothing runs", lambda: redis(second_pi, "hlen", "unacked") == "0", 60)
    numbers = ran(second_pi)
    assert numbers == list(range(len(numbers))), "each once, and none between is missing"
    assert len(numbers) in most
    result = f"from observations_nids.celery import app; print(app.AsyncResult('{task}').get())"
    assert in_app(second_pi, result) == "42"
    assert in_app(second_pi, READ) == "[('kestrel',)]"
    assert second_pi.run("stat", "-c", "%a %U", f"{APP}/.env").stdout == "600 www-data\n"
    assert "SUCCESS" in prove(second_pi)


def test_restored_data_outlive_a_power_cut(second_pi: VirtualPi) -> None:
    redis(second_pi, "set", "mark", "restored")
    path = make(second_pi)
    redis(second_pi, "set", "mark", "later")
    second_pi.run("celery-pi", "restore", path, "--yes", "--only", "redis")
    assert redis(second_pi, "get", "mark") == "restored"
    second_pi.power_cut()
    assert redis(second_pi, "get", "mark") == "restored"
    assert "aof_enabled:1" in redis(second_pi, "info", "persistence")


def test_timer_that_was_missed_runs_the_unit(pi: VirtualPi) -> None:
    make(pi)
    before = files(pi)
    pi.run("systemctl", "stop", f"{BACKUP}.timer")
    pi.run("touch", "-d", "3 days ago", f"/var/lib/systemd/timers/stamp-{BACKUP}.timer")
    pi.run("systemctl", "start", f"{BACKUP}.timer")
    wait_for("there is one more", lambda: len(files(pi)) == len(before) + 1, 60)
    ended = ("systemctl", "show", "-P", "ActiveState", f"{BACKUP}.service")
    wait_for("it has ended", lambda: pi.run(*ended).stdout == "inactive\n", 60)
    result = ("systemctl", "show", "-P", "Result", f"{BACKUP}.service")
    assert pi.run(*result).stdout == "success\n"


def test_drill_is_green_and_red_for_what_is_wrong(pi: VirtualPi) -> None:
    path = make(pi)
    assert run_unit(pi, DRILL) == 0
    says(pi, DRILL, r"can be restored: \d+ keys")
    assert ask(pi)["Last drill"]["well"] is True
    pi.run("cp", "-p", path, "/root/kept")
    half = f"truncate -s $(($(stat -c %s {path}) / 2)) {path}"
    flip = f"printf x | dd of={path} bs=1 seek=500 conv=notrunc status=none"
    aged = ("/usr/bin/python3", "-B", "-c", AGE)
    for command, reason in (
        (("sh", "-c", half), "is cut off"),
        (("sh", "-c", flip), "is damaged"),
        (aged, "is whole, but 27 h old"),
    ):
        pi.run(*command)
        assert run_unit(pi, DRILL) != 0
        says(pi, DRILL, reason)
        assert {"Last drill", "Failed"} <= ask(pi).names("wrong")
        pi.run("cp", "-p", "/root/kept", path)
    assert run_unit(pi, DRILL) == 0
    assert not {"Last drill", "Failed"} & ask(pi).names("wrong")
    pi.run("sh", "-c", "rm -r /root/kept /var/tmp/tmp*")


# A disk without room, and one that has it and takes no file more.
@pytest.mark.parametrize(
    ("disk", "reason"),
    [("size=2m", "must be free"), ("size=256m,nr_inodes=2", "No space left on device")],
)
def test_full_disk_costs_no_backup_and_is_told(pi: VirtualPi, disk: str, reason: str) -> None:
    path = make(pi)
    pi.run("cp", "-p", path, "/root/kept")
    pi.run("mount", "-t", "tmpfs", "-o", f"{disk},mode=700", "tmpfs", PLACE)
    pi.run("cp", "-p", "/root/kept", path)
    status, left = run_unit(pi, BACKUP), files(pi)
    seen = ask(pi).names("wrong")
    same = pi.run("cmp", path, "/root/kept", check=False).returncode
    pi.run("umount", PLACE)
    pi.run("rm", "/root/kept")
    assert (status != 0, same) == (True, 0)
    says(pi, BACKUP, reason)
    assert left == [path.rpartition("/")[2]]
    assert {"Newest", "Failed"} <= seen
    assert run_unit(pi, BACKUP) == 0
    assert not {"Newest", "Failed"} & ask(pi).names("wrong")


def test_restore_touches_nothing_for_a_file_that_is_none(pi: VirtualPi) -> None:
    path = make(pi)
    running, keys = pids(pi), redis(pi, "exists", "_kombu.binding.celery")
    half = f"head -c $(($(stat -c %s {path}) / 2)) {path} >/root/half"
    pi.run("sh", "-c", f"{half}; cp {path} /root/flipped; head -c 3000 /dev/urandom >/root/foreign")
    pi.run("sh", "-c", "printf x | dd of=/root/flipped bs=1 seek=500 conv=notrunc status=none")
    for name in ("half", "foreign", "flipped", "missing"):
        done = pi.run("celery-pi", "restore", f"/root/{name}", "--yes", check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("celery-pi: ")
        assert done.stderr.count("\n") == 1
    pi.run("rm", "/root/half", "/root/foreign", "/root/flipped")
    assert (pids(pi), redis(pi, "exists", "_kombu.binding.celery")) == (running, keys)
    assert pi.run("sh", "-c", f"ls -d {STATE}/before-* 2>/dev/null", check=False).stdout == ""


def test_component_settles_goes_and_comes_back(pi: VirtualPi) -> None:
    assert pyinfra(pi, *COMPONENT).changed == set()
    kept = files(pi)
    assert pyinfra(pi, *OFF).status == 0
    assert "\n0 timers" in pi.run("systemctl", "list-timers", "--all", "celery-pi-*").stdout
    assert files(pi) == kept
    assert pyinfra(pi, *OFF).changed == set()
    assert pyinfra(pi, *COMPONENT).status == 0
    active = ("systemctl", "is-active", f"{BACKUP}.timer", f"{DRILL}.timer")
    assert pi.run(*active).stdout == "active\nactive\n"
    assert pyinfra(pi, *COMPONENT).changed == set()
