"""Backup, restore and drill against a real Redis, and what they do when all goes wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backup_lab
from backup_lab import CONFINED, USER, Lab, MakeLab, state
from tests.helpers.fake import as_root
from tests.helpers.harness import wait_for

lab, labs = backup_lab.lab, backup_lab.labs
pytestmark = [
    pytest.mark.fast,
    as_root,
    pytest.mark.skipif(not shutil.which("redis-check-rdb"), reason="needs Debian's redis-tools"),
]

# -- backup


def test_backup_is_roots_alone_and_counts_what_is_in_it(lab: Lab) -> None:
    file = lab.make()
    assert (lab.backups.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    listed = subprocess.run(["tar", "tzf", file], capture_output=True, text=True, check=False)
    assert listed.stdout.split() == [
        "manifest.json",
        "redis/dump.rdb",
        "app/db.sqlite3",
        "app/.env",
    ]
    assert listed.returncode == 0, "tar alone can open it"
    manifest = json.loads(subprocess.check_output(["tar", "xzOf", file, "manifest.json"]))
    assert manifest["redis"]["databases"] == {
        "0": {"keys": 5, "expiring": 2},
        "3": {"keys": 1, "expiring": 0},
    }
    assert manifest["redis"]["digest"] == lab.redis("debug", "digest")
    assert lab.noted("backup")["well"] is True


def test_as_many_are_kept_as_are_to_be(lab: Lab) -> None:
    lab.set(backup_keep=2, backup_app=False)
    old = lab.make()
    names = ["2020-01-01T000000Z.tar.gz", "2019-01-01T000000Z.tar.gz", "2018-01-01T000000Z.tar.gz"]
    for name in names:
        shutil.copy(old, lab.backups / name)
    (lab.backups / "of-the-owner.tar.gz").touch()
    newest = lab.make()
    assert lab.files() == [old, newest, lab.backups / "of-the-owner.tar.gz"]
    lab.set(backup_keep=7, backup_app=False)
    lab.make()
    assert len(lab.files()) == 4


def test_new_one_stays_though_the_clock_was_ahead_before(lab: Lab) -> None:
    lab.set(backup_keep=1, backup_app=False)
    future = lab.backups / "2999-01-01T000000Z.tar.gz"
    lab.make().rename(future)
    lab.make()
    assert future not in lab.files()
    assert len(lab.files()) == 1


def limited() -> None:
    """A disk that is full at 4 KiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@pytest.mark.parametrize("trouble", ["down", "full", "damaged database", "no room", "refused"])
def test_backup_that_fails_says_why_and_leaves_the_old_ones(lab: Lab, trouble: str) -> None:
    old = lab.make()
    given: dict[str, Any] = {}
    if trouble == "down":
        lab.stop()
    elif trouble == "full":
        lab.redis("set", "noise", os.urandom(20000).hex())
        given["preexec_fn"] = limited
    elif trouble == "damaged database":
        lab.write(*(f"bird {number}" for number in range(2000)), mode="delete")
        with (lab.root / "app/db.sqlite3").open("r+b") as file:
            file.seek(8192)
            file.write(os.urandom(4096))
    elif trouble == "no room":
        shared = lab.root / "lib/celery_pi_tools/backup/workspace.py"
        shared.write_text(shared.read_text().replace("64 * 2**20", "2**60"))
    else:
        (lab.root / "secrets/redis_backup_password").write_text("another\n")
    status, said = lab.run("backup", **given)
    assert status == 1
    assert said.startswith("celery-pi: ")
    assert said.count("\n") == 0
    assert lab.files() == [old]
    assert lab.noted("backup") == {**lab.noted("backup"), "well": False}


def test_what_a_killed_one_left_goes_with_the_next(lab: Lab) -> None:
    lab.backups.mkdir(mode=0o700)
    (lab.backups / ".new-1").write_text("half")
    assert lab.make() == lab.files()[0]


def test_two_at_once_wait_for_each_other(lab: Lab) -> None:
    lab.make()
    shared = lab.root / "lib/celery_pi_tools/backup/common.py"
    shared.write_text(shared.read_text().replace("LOCK_TIMEOUT = 600", "LOCK_TIMEOUT = 1"))
    with subprocess.Popen(["flock", lab.backups, "sleep", "60"]) as other:
        time.sleep(0.5)
        status, said = lab.run("backup")
        other.kill()
    assert (status, "another backup" in said) == (1, True)


def test_database_that_is_missing_is_told_and_skipped(lab: Lab) -> None:
    lab.set(backup_databases=("db.sqlite3", "none.sqlite3"))
    status, said = lab.run("backup")
    assert status == 0
    assert f"there is no {lab.root}/app/none.sqlite3; the backup is without it" in said


def test_database_in_use_is_copied_whole(lab: Lab) -> None:
    """With what is in its log, and without what is not committed."""
    database = sqlite3.connect(lab.root / "app/db.sqlite3", isolation_level=None)
    database.execute("INSERT INTO birds VALUES ('wren')")
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO birds VALUES ('never')")
    for path in (lab.root / "app").glob("db.sqlite3-*"):
        shutil.chown(path, USER)
    file = lab.make()
    database.execute("ROLLBACK")
    database.execute("DELETE FROM birds")
    database.close()
    assert lab.run("restore", file, "--yes", "--only", "app")[0] == 0
    assert lab.rows() == ["kestrel", "owl", "wren"]


def test_backup_and_drill_need_no_more_than_their_units_have(lab: Lab) -> None:
    for program in ("backup", "drill"):
        status, said = lab.run(program, within=CONFINED)
        assert status == 0, said


# -- drill


def test_drill_finds_it_whole_also_when_keys_have_expired(lab: Lab) -> None:
    lab.make()
    time.sleep(1.6)
    status, said = lab.run("drill")
    assert status == 0, said
    assert "6 keys" in said
    assert lab.noted("drill")["well"] is True


def flip(file: Path, place: int) -> None:
    text = bytearray(file.read_bytes())
    text[place] ^= 1
    file.write_bytes(text)


def test_drill_is_red_for_every_byte_that_is_another(lab: Lab) -> None:
    lab.set(backup_app=False)
    file = lab.make()
    whole = file.read_bytes()
    places = [*range(12), *range(40, len(whole) - 130, 97), *range(len(whole) - 130, len(whole), 7)]
    check = (
        "import sys; sys.path.insert(0, sys.argv[1]); from celery_pi_tools.backup import archive\n"
    )
    check += "from pathlib import Path; import json\n"
    check += "file, seen = Path(sys.argv[2]), 0\nwhole = file.read_bytes()\n"
    check += "for place in json.loads(sys.argv[3]):\n"
    check += " text = bytearray(whole); text[place] ^= 1; file.write_bytes(text)\n"
    check += " try: archive.check_trailer(file)\n"
    check += " except archive.BackupError: seen += 1\n"
    check += "print(seen)"
    given = [str(lab.root / "lib"), str(file), json.dumps(places)]
    found = subprocess.check_output(["/usr/bin/python3", "-B", "-c", check, *given], text=True)
    assert int(found) == len(places)
    file.write_bytes(whole)
    flip(file, len(whole) // 2)
    status, said = lab.run("drill")
    assert (status, "is cut off, damaged" in said or "is damaged" in said) == (1, True)
    assert lab.noted("drill")["well"] is False


@pytest.mark.parametrize("left", [0, 5, 0.5, -1, -100])
def test_drill_is_red_when_it_is_cut_off(lab: Lab, left: float) -> None:
    file = lab.make()
    length = file.stat().st_size
    os.truncate(file, int(length * left) if left == 0.5 else int(left) % (length + (left >= 0)))
    assert lab.run("drill")[0] == 1


KNOWN = ("redis/dump.rdb", "app/db.sqlite3", "app/.env")


def rewritten(lab: Lab, file: Path, change: str) -> None:
    """The same backup with another manifest, with a new checksum."""
    code = f"""
import sys; sys.path.insert(0, "{lab.root}/lib")
from pathlib import Path
from celery_pi_tools.backup import archive
file, into = Path("{file}"), Path("{lab.root}/rewritten")
into.mkdir()
manifest = archive.unpack(file, into, {KNOWN!r})
{change}
file.unlink()
members = {{each["name"]: into / each["name"] for each in manifest["members"]}}
archive.write(file, manifest, members)
"""
    subprocess.run(["/usr/bin/python3", "-B", "-c", code], check=True)
    shutil.rmtree(lab.root / "rewritten")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("manifest['made'] -= 27 * 3600", "is whole, but 27 h old"),
        ("manifest['redis']['digest'] = '0' * 40", "as many keys, but another content"),
        ("manifest['redis']['databases']['0']['keys'] += 1", "6 keys instead of 7"),
        ("manifest['members'][1]['sha256'] = '0' * 64", "app/db.sqlite3 in"),
        ("manifest['members'].append({'name': 'x', 'size': 0})", "is damaged"),
    ],
)
def test_drill_is_red_when_it_is_not_as_promised(lab: Lab, change: str, said: str) -> None:
    file = lab.make()
    if "append" in change:
        with pytest.raises(subprocess.CalledProcessError):
            rewritten(lab, file, change)
        return
    rewritten(lab, file, change)
    status, told = lab.run("drill")
    assert (status, said in told) == (1, True), told


def test_drill_without_a_backup_is_red(lab: Lab) -> None:
    assert lab.run("drill") == (1, f"celery-pi: there is no backup in {lab.backups}")


# -- restore


def test_restore_on_another_empty_machine_brings_all(lab: Lab, labs: MakeLab) -> None:
    file = lab.make()
    other = labs()
    other.start()
    (other.root / "app/.env").write_text("CELERY_BROKER_URL=redis://there\nDEBUG=1\n")
    shutil.chown(other.root / "app/.env", USER)
    status, said = other.run("restore", file, "--yes")
    assert status == 0, said
    for command in ("llen celery", "smembers _kombu.binding.celery", "-n 3 get other"):
        told = [sorted(each.redis(*command.split()).split()) for each in (lab, other)]
        assert told[0] == told[1]
    assert int(other.redis("ttl", "celery-task-meta-2")) > 3000
    assert other.rows() == ["kestrel", "owl"]
    env = other.root / "app/.env"
    assert env.read_text() == "SECRET=s3cret\nCELERY_BROKER_URL=redis://there\n"
    assert (env.owner(), env.stat().st_mode & 0o777) == (USER, 0o600)
    assert (other.root / "units/celery-worker.service").exists()


def test_restored_data_outlive_restarts_and_rewrites(lab: Lab) -> None:
    """The trap: with the append-only file on, a dump.rdb that is put there is not read."""
    file = lab.make()
    before = state(lab)
    lab.redis("flushall")
    lab.redis("rpush", "celery", "later")
    assert lab.run("restore", file, "--yes", "--only", "redis")[0] == 0
    for _ in range(2):
        assert state(lab)[0] == before[0]
        lab.redis("rpush", "new", "x")
        lab.redis("bgrewriteaof")
        wait_for("it is", lambda: "aof_rewrite_in_progress:0" in lab.redis("info", "persistence"))
        lab.stop()
        lab.systemctl("start", "redis-server.service")
        lab.wait()
        assert lab.redis("del", "new") == "1"
    (aside,) = lab.state.glob("before-restore-*")
    kept = aside / "redis/appendonlydir"
    assert (kept / "appendonly.aof.manifest").exists()
    assert "later" in (kept / "appendonly.aof.1.incr.aof").read_text()
    modes = [path.stat().st_mode & 0o777 for path in (aside, aside / "redis")]
    assert modes == [0o711, 0o700]
    assert (aside / "redis").owner() == USER


def test_second_restore_changes_nothing(lab: Lab) -> None:
    file = lab.make()
    before = state(lab)
    for _ in range(2):
        assert lab.run("restore", file, "--yes")[0] == 0
        assert state(lab) == before
    names = [path.name for path in (lab.root / "redis/appendonlydir").iterdir()]
    assert len(names) == 3, names


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("rows of birds"), "is no backup of celery-pi"),
        (lambda path: path.write_bytes(b""), "is no backup of celery-pi"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "is cut off"),
        (lambda path: flip(path, 300), "is damaged"),
        (lambda path: path.unlink(), "No such file or directory"),
    ],
)
def test_restore_refuses_what_is_no_whole_backup(
    lab: Lab, make: Callable[[Path], Any], said: str
) -> None:
    file = lab.make()
    make(file)
    refused(lab, file, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("manifest['versions']['redis'] = '99.0.0'", "which is newer than Redis"),
        ("manifest['format'] = 2", "another version of celery-pi"),
        ("manifest['redis']['digest'] = '0' * 40", "but another content"),
        ("(into / 'redis/dump.rdb').write_bytes(b'REDIS0011')", "is not what its manifest says"),
        ("manifest['members'][0]['name'] = '../x'; (into / '../x').touch()", "have no place"),
    ],
)
def test_restore_refuses_what_it_could_not_bring_back(lab: Lab, change: str, said: str) -> None:
    file = lab.make()
    if "../x" in change:
        change += "; manifest['members'][0]['name'] = '../x'"
    rewritten(lab, file, change)
    refused(lab, file, said)


def refused(lab: Lab, file: Path, said: str) -> None:
    """It says why, and nothing was touched."""
    process, before = lab.redis("info", "server").partition("run_id:")[2][:40], state(lab)
    (lab.root / "calls").unlink(missing_ok=True)
    status, told = lab.run("restore", file, "--yes")
    assert (status, said in told) == (1, True), told
    assert not (lab.root / "calls").exists(), "systemd was asked for something"
    assert lab.redis("info", "server").partition("run_id:")[2][:40] == process
    assert state(lab) == before
    assert not list(lab.state.glob("before-restore-*"))


def test_restore_asks_first(lab: Lab) -> None:
    file = lab.make()
    status, said = lab.run("restore", file)
    assert (status, "nothing was touched; answer yes, or give --yes" in said) == (1, True)


TROUBLES = {
    "interrupted at first": ("stop celery-beat.service", "kill -HUP $PPID; sleep 1"),
    "interrupted at the stop": ("stop redis-server.service", "kill -INT $PPID; sleep 1"),
    "interrupted at the start": (
        "start --no-block redis-server.service",
        "kill -TERM $PPID; sleep 1",
    ),
    "Redis does not start": ("start --no-block redis-server.service", "exit 1"),
}


@pytest.mark.parametrize("trouble", [*TROUBLES, ".env cannot be written"])
def test_restore_that_fails_on_the_way_puts_all_back(lab: Lab, trouble: str) -> None:
    file = lab.make()
    lab.redis("rpush", "celery", "since then")
    lab.write("since then")
    before = state(lab)
    if trouble in TROUBLES:
        lab.trouble(*TROUBLES[trouble])
    else:
        lab.break_once("backup/app.py", "put_env(file.read_bytes(), settings)")
    status, said = lab.run("restore", file, "--yes")
    assert status == 1
    ends = " by SIGHUP" if "first" in trouble else "; all is as it was before"
    assert said.splitlines()[-1].endswith(ends)
    assert state(lab) == before
    assert not list(lab.state.glob("before-restore-*"))
    assert (lab.root / "units/celery-worker.service").exists()
    names = [path.name for path in (lab.root / "redis/appendonlydir").iterdir()]
    assert len(names) == 3, names


def test_restore_that_fails_leaves_nothing_that_was_not_there(lab: Lab) -> None:
    """On another Pi, for example, whose app has no database yet."""
    file = lab.make()
    app = lab.root / "app"
    for path in app.glob("db.sqlite3*"):
        path.unlink()
    (app / ".env").rename(app / "variables")
    (app / "variables").unlink()
    (app / ".env").symlink_to("variables")
    before = sorted(path.name for path in app.iterdir())
    assert before == [".env"]
    lab.trouble(*TROUBLES["Redis does not start"])
    status, said = lab.run("restore", file, "--yes")
    assert (status, said.splitlines()[-1].endswith("; all is as it was before")) == (1, True)
    assert sorted(path.name for path in app.iterdir()) == before
    assert lab.run("restore", file, "--yes")[0] == 0
    assert lab.rows() == ["kestrel", "owl"]
    assert (app / "variables").read_text().startswith("SECRET=s3cret")


def test_restore_that_fails_says_what_stays_in_mariadb(lab: Lab) -> None:
    """A dump replaces the tables that are in it; what was not there before is in none."""
    for name, script in (("mariadb-dump", "echo '-- Dump completed'"), ("mariadb", "cat >&2")):
        path = lab.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    lab.set(backup_mariadb="nids")
    file = lab.make()
    lab.trouble(*TROUBLES["Redis does not start"])
    status, said = lab.run("restore", file, "--yes")
    told = "; all is as it was before, but tables that only the backup has stay in nids"
    assert (status, said.splitlines()[-1].endswith(told)) == (1, True), said


@pytest.mark.parametrize("step", range(1, 9))
@pytest.mark.parametrize("fresh", [False, True])
def test_power_cut_leaves_the_old_data_or_the_new(lab: Lab, step: int, fresh: bool) -> None:
    """Wherever it comes: the program is killed at each of its steps to the disk."""
    lab.redis("del", "celery-task-meta-1")  # its time comes
    new = lab.root / "new.rdb"
    lab.redis("--rdb", str(new))
    digests = [lab.redis("debug", "digest")]
    lab.redis("flushall")
    if not fresh:
        lab.redis("set", "old", "data")
    digests.append(lab.redis("debug", "digest"))
    lab.stop()
    if fresh:
        shutil.rmtree(lab.root / "redis/appendonlydir")
    code = f"""
import os, sys; sys.path.insert(0, "{lab.root}/lib")
from pathlib import Path
from celery_pi_tools.backup import redis_data as data
steps, real = 0, data._sync
def cut(path):
    global steps
    steps += 1
    if steps == {step}: os._exit(9)
    real(path)
data._sync = cut
with Path("{new}").open("rb") as rdb: data.put(rdb)
data.forget()
"""
    new.chmod(0o644)
    subprocess.run(["/usr/bin/python3", "-B", "-c", code], check=False, user=USER, umask=0o077)
    lab.systemctl("start", "redis-server.service")
    lab.wait()
    lab.redis("debug", "set-active-expire", "0")
    assert lab.redis("debug", "digest") in digests
