"""Backup, restore and drill where the app, Redis or the archive is hostile: what is meant for
root's files reaches none, nothing hangs, and no memory is filled."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import backup_lab
from backup_lab import CONFINED, USER, Lab, state
from celery_pi_tools.backup import archive
from celery_pi_tools.privileges import Refused
from tests.helpers.fake import as_root

pytestmark = [
    pytest.mark.fast,
    as_root,
    pytest.mark.skipif(not shutil.which("redis-check-rdb"), reason="needs Debian's redis-tools"),
]
lab, labs = backup_lab.lab, backup_lab.labs

SECRET = "root:$6$only-root-may-read-this"  # noqa: S105
SPARSE = 8 * 2**30  # bytes
MOST = 100  # MiB
QUICK = 20  # seconds
MEASURED = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(status)
"""


@pytest.fixture
def secret(lab: Lab) -> Path:
    """A file of root's, in a directory that everybody may enter."""
    file = lab.root / "roots/shadow"
    file.parent.mkdir(mode=0o755)
    file.write_text(SECRET)
    file.chmod(0o600)
    return file


def bounded(lab: Lab, program: str, *words: str | Path) -> tuple[int, str]:
    """Exit status, and what it says; it is quick, and small whatever it is given."""
    began = time.monotonic()
    status, said = lab.run(program, *words, within=("/usr/bin/python3", "-c", MEASURED))
    assert time.monotonic() - began < QUICK
    lines = said.splitlines()
    (peak,) = (line for line in lines if line.startswith("peak "))
    assert int(peak.split()[1]) < MOST
    return status, "\n".join(line for line in lines if line != peak)


def link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def second_name(path: Path, secret: Path) -> None:
    os.link(secret, path)


def fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)
    shutil.chown(path, USER)


def zero(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path, _: Path) -> None:
    path.touch()
    os.truncate(path, SPARSE)
    shutil.chown(path, USER)


Plant = Callable[[Path, Path], None]


# -- what user redis has put in the place of Redis


class FakeRedis:
    """Replies +OK, and to the command that it names without end."""

    def __init__(self, path: Path, to: str, start: bytes, block: bytes) -> None:
        path.unlink(missing_ok=True)
        self.to, self.start, self.block = to, start, block
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        path.chmod(0o777)
        self.listener.listen()
        Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with suppress(OSError):  # the test is over
            while True:
                client = self.listener.accept()[0]
                Thread(target=self.talk, args=(client,), daemon=True).start()

    def talk(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while asked := client.recv(2**16).decode().upper():
                if f"\r\n{self.to}\r\n" in asked or asked.startswith(f"{self.to}\r\n"):
                    client.sendall(self.start)
                    while self.block:
                        client.sendall(self.block)
                used = b"used_memory:1000\r\n"
                info = b"$%d\r\n%s\r\n" % (len(used), used)
                client.sendall(info if "INFO" in asked else b"+OK\r\n")


ENDLESS = bytes(2**16)
MARK = b"$EOF:" + b"a" * 40 + b"\r\n"


@pytest.mark.parametrize(
    ("to", "start", "block", "reason"),
    [
        ("AUTH", b"$99999999999\r\n", ENDLESS, "its reply is larger than 8388608 bytes"),
        ("INFO", b"$99999999999\r\n", ENDLESS, "its reply is larger than 8388608 bytes"),
        ("INFO", b"*99999999999\r\n", b":1\r\n" * 1000, "its reply has more than 65536 values"),
        ("REPLCONF", b"+", ENDLESS, "its reply is larger than 8388608 bytes"),
        ("SYNC", MARK, ENDLESS, "Redis sends more than 1048576 bytes"),
        ("SYNC", b"$99999999999\r\n", ENDLESS, "Redis sends more than 1048576 bytes"),
        ("SYNC", b"x", ENDLESS, "Redis sends no snapshot"),
        ("SYNC", b"-NOPERM\x1b[2J\r\n", b"", "Redis refuses: NOPERM\\x1b[2J"),
    ],
)
def test_redis_without_an_end_fills_neither_memory_nor_disk(
    lab: Lab, to: str, start: bytes, block: bytes, reason: str
) -> None:
    lab.change("backup/create.py", "limit=spare(rdb.parent)", "limit=2**20")
    lab.stop()
    fake = FakeRedis(lab.root / "run/redis.sock", to, start, block)
    status, said = bounded(lab, "backup")
    fake.listener.close()
    (lab.root / "run/redis.sock").unlink()
    assert (status, reason in said) == (1, True), said


def test_backup_that_is_interrupted_leaves_no_process_and_no_file(lab: Lab) -> None:
    lab.stop()
    fake = FakeRedis(lab.root / "run/redis.sock", "SYNC", b"", b"\n")
    status, said = lab.run("backup", within=("timeout", "5"))
    fake.listener.close()
    (lab.root / "run/redis.sock").unlink()
    assert (status, said) == (124, "celery-pi: interrupted by SIGTERM")
    named = ("pgrep", "-f", str(lab.root))
    assert subprocess.run(named, capture_output=True, check=False).stdout == b""
    assert lab.noted("backup")["well"] is False


# -- what the app has put where a backup looks


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (link, "cannot read it"),
        (second_name, "cannot read it"),
        (fifo, "is no regular file"),
        (zero, "is no regular file"),
        (sparse, "is larger than 1048576 bytes"),
    ],
)
def test_env_that_is_none_is_told_and_not_read(
    lab: Lab, secret: Path, plant: Plant, said: str
) -> None:
    (lab.root / "app/.env").unlink()
    plant(lab.root / "app/.env", secret)
    status, told = bounded(lab, "backup")
    assert (status, said in told, lab.files()) == (1, True, []), told


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (link, "unable to open database file"),
        (second_name, "unable to open database file"),
        (fifo, "is no regular file"),
        (zero, "is no regular file"),
        (sparse, "file is not a database"),
    ],
)
def test_database_that_is_none_is_told_and_not_read(
    lab: Lab, secret: Path, plant: Plant, said: str
) -> None:
    (lab.root / "app/db.sqlite3").unlink()
    plant(lab.root / "app/db.sqlite3", secret)
    status, told = bounded(lab, "backup")
    assert (status, said in told or "must be free" in told, lab.files()) == (1, True, []), told


def hostile(lab: Lab, task: str, code: str) -> None:
    """The app's own process does that instead of the task: as if it won each race."""
    text = f"\n\ndef hostile(*words: str) -> int | None:\n    import socket, time\n{code}\n\n"
    call = 'if __name__ == "__main__":\n'
    lab.change("backup/sqlite_copy.py", call, f"{text}{task} = hostile\n\n{call}")


PLANTS = {
    "link": ("    os.symlink({secret!r}, words[1])\n    return 100", "Permission denied"),
    "FIFO": ("    os.mkfifo(words[1])\n    return 100", "cat does not end within 2 s"),
    "zeros": ("    os.symlink('/dev/zero', words[1])\n    return 100", "cat prints more than"),
    "sparse": (
        "    os.truncate(os.open(words[1], os.O_CREAT | os.O_WRONLY), 2**33)\n    return 100",
        "cat prints more than",
    ),
    "too much": ("    return 2**62", "must be free"),
    "no number": ("    print('\\x1b[2J9')", "'\\x1b[2J9' is no number of bytes"),
    "much to say": ("    print('x' * 2**24)", "python3 prints more than 1048576 bytes"),
    "never ends": ("    time.sleep(600)", "python3 does not end within 2 s"),
    "stopped": ("    os.kill(os.getpid(), 19)", "python3 does not end within 2 s"),
}


@pytest.mark.parametrize("trick", PLANTS)
def test_what_the_app_plants_for_its_copy_is_not_read_by_root(
    lab: Lab, secret: Path, trick: str
) -> None:
    code, said = PLANTS[trick]
    hostile(lab, "copy", code.replace("{secret!r}", repr(str(secret))))
    hostile_check(lab)
    lab.change("backup/workspace.py", "LEAST = 300", "LEAST = 2")
    status, told = bounded(lab, "backup")
    assert (status, said in told, lab.files()) == (1, True, []), told
    assert "\x1b" not in told


@pytest.mark.parametrize("trick", ["never ends", "stopped"])
def test_unit_that_may_kill_nobody_leaves_no_process(lab: Lab, trick: str) -> None:
    hostile(lab, "copy", PLANTS[trick][0])
    lab.change("backup/workspace.py", "LEAST = 300", "LEAST = 2")
    status, said = lab.run("backup", within=CONFINED)
    assert (status, PLANTS[trick][1] in said) == (1, True), said
    found = subprocess.run(
        ["pgrep", "-f", f"{lab.root}/lib"], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


def hostile_check(lab: Lab) -> None:
    """It finds all whole."""
    begin = '    database = opened(path, "ro&'
    lab.change("backup/sqlite_copy.py", begin, f"    return\n{begin}")


def test_that_root_could_be_led_astray_there(lab: Lab, secret: Path) -> None:
    """The test above is one: what root reads by itself is root's file."""
    hostile(lab, "copy", PLANTS["link"][0].replace("{secret!r}", repr(str(secret))))
    hostile_check(lab)
    lab.change("backup/workspace.py", "run(user, command, sink", 'run("root", command, sink')
    file = lab.make()
    held = subprocess.check_output(["tar", "xzOf", file, "app/db.sqlite3"], text=True)
    assert held == SECRET


WRITES = """
    import os, stat
    shown, directory = os.stat(words[0]), os.path.dirname(words[0])
    for attempt in (
        lambda: open(words[0], "r+b"),
        lambda: os.chmod(words[0], 0o666),
        lambda: os.unlink(words[0]),
        lambda: os.symlink("/etc/passwd", directory + "/other"),
        lambda: os.listdir(directory),
    ):
        try:
            attempt()
        except PermissionError:
            continue
        sys.exit("root has lent more than the reading")
    if shown.st_uid or stat.S_IMODE(shown.st_mode) != 0o640 or os.environ.keys() - KNOWN:
        sys.exit(f"{shown} {os.environ}")
    for fd in range(3, 100):
        try:
            os.fstat(fd)
        except OSError:
            continue
        sys.exit(f"descriptor {fd} is open")
    if os.getsid(0) != os.getpid() or os.isatty(0) or os.read(0, 1):
        sys.exit("it has something of root's session")
"""


def test_what_root_lends_can_be_read_and_no_more(lab: Lab) -> None:
    lab.make()
    known = "{'PATH', 'LC_ALL', 'HOME', 'USER', 'LOGNAME', 'LC_CTYPE'}"
    hostile(lab, "check", WRITES.replace("KNOWN", known))
    status, said = lab.run("drill")
    assert status == 0, said


# -- what is missing for a while


@pytest.mark.parametrize("name", ["db.sqlite3", ".env"])
def test_file_that_was_in_the_last_backup_is_not_left_out(lab: Lab, name: str) -> None:
    old = lab.make()
    path = lab.root / "app" / name
    path.rename(lab.root / "app/away")
    status, said = lab.run("backup")
    assert (status, lab.files()) == (1, [old])
    assert said == f"celery-pi: {path} was in the last backup and is missing now"
    lab.change("backup/app.py", "RETRY_TIME = 3", "RETRY_TIME = 15")
    with subprocess.Popen(["sh", "-c", f"sleep 2; mv {lab.root}/app/away {path}"]):
        lab.make()
    assert len(lab.files()) == 2


def test_last_backup_that_cannot_be_read_is_told_and_the_one_before_it_counts(lab: Lab) -> None:
    old = lab.make()
    shutil.copy(old, lab.backups / "2999-01-01T000000Z.tar.gz")
    os.truncate(lab.backups / "2999-01-01T000000Z.tar.gz", 20)
    (lab.root / "app/db.sqlite3").unlink()
    status, said = lab.run("backup")
    assert status == 1
    assert "2999-01-01T000000Z.tar.gz is damaged" in said
    assert "was in the last backup" in said


# -- where a restore writes


@pytest.mark.parametrize("there", [False, True])
def test_restore_does_not_follow_a_link_into_a_directory_of_roots(
    lab: Lab, secret: Path, there: bool
) -> None:
    file = lab.make()
    target = secret.parent / "profile.sh"
    if there:
        target.write_text("echo root's\n")
    names = sorted(path.name for path in secret.parent.iterdir())
    (lab.root / "calls").unlink(missing_ok=True)
    (lab.root / "app/.env").unlink()
    (lab.root / "app/.env").symlink_to(target)
    status, said = lab.run("restore", file, "--yes", "--only", "app")
    assert status == 1, said
    assert "leads into a directory that nobody may not write, nor its owner" in said
    assert not (lab.root / "calls").exists(), "systemd was asked for something"
    assert sorted(path.name for path in secret.parent.iterdir()) == names
    assert not list(lab.state.glob("before-restore-*"))
    looks = "    if name == ENV:\n        with place"
    lab.change("backup/app.py", looks, looks.replace("name == ENV", "not name"))
    status, said = lab.run("restore", file, "--yes", "--only", "app")
    assert (status, "leads into a directory" in said) == (1, True), "it may become a link later"
    assert sorted(path.name for path in secret.parent.iterdir()) == names
    assert not there or target.read_text() == "echo root's\n"


def test_restore_replaces_what_a_link_of_the_apps_leads_to(lab: Lab) -> None:
    """As many deploy by releases: `.env` of all of them is one file in a directory beside."""
    file = lab.make()
    shared = lab.root / "app/shared"
    shared.mkdir()
    shutil.chown(shared, USER)
    (lab.root / "app/.env").rename(shared / "env")
    (lab.root / "app/.env").symlink_to("shared/env")
    (shared / "env").write_text("CELERY_BROKER_URL=redis://there\n")
    assert lab.run("restore", file, "--yes", "--only", "app")[0] == 0
    assert (shared / "env").read_text() == "SECRET=s3cret\nCELERY_BROKER_URL=redis://there\n"
    assert (lab.root / "app/.env").is_symlink()


@pytest.mark.parametrize(
    ("swap", "ends"),
    [
        ("mv {aof} {aof}.away; ln -s {target} {aof}", 1),
        ("ln -s {target}/x {aof}/{manifest}.celery-pi", 0),  # replaced by a file of Redis' own
        ("mkfifo {aof}/{manifest}.celery-pi", 0),
    ],
)
def test_link_in_redis_directory_makes_root_write_nowhere(
    lab: Lab, secret: Path, swap: str, ends: int
) -> None:
    """It is put there when Redis is stopped, which is before root's program goes on."""
    file = lab.make()
    aof, socket = lab.root / "redis/appendonlydir", lab.root / "run/redis.sock"
    lab.change("backup/services.py", "PATIENCE = 660", "PATIENCE = 1")
    done = swap.format(aof=aof, target=secret.parent, manifest="appendonly.aof.manifest")
    lab.trouble("stop redis-server.service", f"redis-cli -s {socket} shutdown; {done}")
    status, said = lab.run("restore", file, "--yes", "--only", "redis")
    assert (status, "Permission denied" in said) == (ends, ends == 1), said
    assert [each.name for each in secret.parent.iterdir()] == ["shadow"]
    assert (secret.read_text(), secret.owner()) == (SECRET, "root")
    # A server whose append-only file is out of reach does not end by itself.
    lab.kill()


# -- archives of others


def foreign(lab: Lab, change: Callable[[dict[str, Any]], None], **names: str) -> Path:
    """A backup of this lab with another manifest and checksum; `names` for members by their old."""
    file, into = lab.make(), lab.root / "into"
    into.mkdir()
    manifest = archive.unpack(file, into, ("redis/dump.rdb", "app/db.sqlite3", "app/.env"))
    members = {each["name"]: into / each["name"] for each in manifest["members"]}
    for old, new in names.items():
        (name,) = (name for name in members if name.endswith(old))
        members[new] = members.pop(name)
        (entry,) = (each for each in manifest["members"] if each["name"] == name)
        entry["name"] = new
    change(manifest)
    file.unlink()
    archive.write(file, manifest, members)
    shutil.rmtree(into)
    return file


def untouched(lab: Lab, file: Path, said: str) -> str:
    before = state(lab)
    (lab.root / "calls").unlink(missing_ok=True)
    status, told = bounded(lab, "restore", file, "--yes")
    assert (status, said in told) == (1, True), told
    assert told.count("\n") == 0
    assert not (lab.root / "calls").exists(), "systemd was asked for something"
    assert state(lab) == before
    return told


@pytest.mark.parametrize(
    "name",
    [
        "mariadb/--init-command=x.sql",
        "mariadb/mysql.sql",
        "app/other.sqlite3",
        "app/../../etc/cron.d/x",
        "/etc/cron.d/x",
        "redis/other.rdb",
        "manifest.json",
        "",
    ],
)
def test_name_that_the_settings_do_not_know_is_refused(lab: Lab, name: str) -> None:
    file = foreign(lab, lambda _: None, **{"db.sqlite3": name})
    untouched(lab, file, f"holds {name}, for which this machine's settings have no place")
    assert lab.run("drill")[0] == 1


def test_name_with_an_escape_moves_no_cursor(lab: Lab) -> None:
    file = foreign(lab, lambda _: None, **{"db.sqlite3": "app/\x1b[2J\nroot: all is well"})
    told = untouched(lab, file, r"holds app/\x1b[2J\nroot: all is well, for which")
    assert "\x1b" not in told


def test_host_with_an_escape_moves_no_cursor(lab: Lab) -> None:
    file = foreign(lab, lambda told: told.update(host="pi\x1b]0;x\x07\n"))
    status, said = lab.run("restore", file)
    assert (status, r"of pi\x1b]0;x\x07\n, 20" in said, "\x1b" in said) == (1, True, False)


def deep(told: dict[str, Any]) -> None:
    told["host"] = 0
    for _ in range(300):
        told["host"] = [told["host"]]


@pytest.mark.parametrize(
    "change",
    [
        deep,
        lambda told: told.update(made="x"),
        lambda told: told.update(made=2**60),
        lambda told: told.update(made=2**52),
        lambda told: told.update(redis=[]),
        lambda told: told["redis"].update(databases={"x": 1}),
        lambda told: told["redis"].pop("digest"),
        lambda told: told["versions"].update(redis="new"),
        lambda told: told.update(members={}),
        lambda told: told["members"][0].update(size=-(2**40)),
        lambda told: told["members"][0].update(size=True),
        lambda told: told["members"][0].update(name=["x"]),
    ],
)
def test_manifest_of_another_shape_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    file = with_trailer(tmp_path / "backup.tar.gz", manifest(NOTHING, change=change))
    with pytest.raises(Refused, match="is damaged: "):
        archive.unpack(file, tmp_path, ("app/.env",))


def with_trailer(path: Path, *blocks: bytes) -> Path:
    """The blocks in gzip, with our trailer."""
    with path.open("w+b") as file:
        with gzip.GzipFile("", "wb", 3, file, mtime=0) as packed:
            for block in blocks:
                packed.write(block)
        file.seek(0)
        file.write(archive.EMPTY % (archive.COMMENT % archive.digest(file).encode()))
    return path


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


def manifest(
    *members: dict[str, Any], change: Callable[[dict[str, Any]], None] = lambda _: None
) -> bytes:
    told: dict[str, Any] = {
        **{"format": 1, "host": "pi", "made": 0, "versions": {"redis": "7.0"}},
        "members": [dict(member) for member in members],
        "redis": {"databases": {}, "digest": "0" * 40},
    }
    change(told)
    text = json.dumps(told).encode()
    return header("manifest.json", len(text)) + text.ljust(-(-len(text) // 512) * 512, b"\0")


MANY = 300  # MiB
ZEROS = [bytes(2**20)] * MANY
NOTHING = {"name": "app/.env", "size": 0, "sha256": "0" * 64}
BOMBS: dict[str, tuple[bytes, ...]] = {
    "head": (header("x", MANY * 2**20, tarfile.XHDTYPE), *ZEROS),
    "long name": (header("x", MANY * 2**20, tarfile.GNUTYPE_LONGNAME), *ZEROS),
    "manifest": (header("manifest.json", MANY * 2**20), *ZEROS),
    "member": (manifest(NOTHING), header("app/.env", MANY * 2**20), *ZEROS),
    "heads": tuple([header("x", 0, tarfile.XHDTYPE)] * 3000),
    "device": (manifest(NOTHING), header("app/.env", 0, tarfile.CHRTYPE)),
    "link": (manifest(NOTHING), header("app/.env", 0, tarfile.SYMTYPE)),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_archive_that_unpacks_to_much_fills_neither_memory_nor_disk(lab: Lab, bomb: str) -> None:
    file = with_trailer(lab.root / "bomb.tar.gz", *BOMBS[bomb])
    lab.change("backup/common.py", "LOCK_TIMEOUT = 600", "LOCK_TIMEOUT = 60")
    said = untouched(lab, file, f"{file}")
    assert "damaged" in said or "is not what its manifest says" in said or "is no backup" in said


def test_great_env_in_an_archive_is_refused(lab: Lab) -> None:
    file = lab.root / "great"
    file.write_bytes(bytes(2**20 + 1))
    entry = archive.described(file, "app/.env")
    content = file.read_bytes() + bytes(511)
    head = manifest(entry), header("app/.env", entry["size"])
    bomb = with_trailer(lab.root / "b.tar.gz", *head, content)
    untouched(lab, bomb, "app/.env is larger than 1048576 bytes")


@pytest.mark.parametrize("plant", [fifo, zero, sparse])
def test_file_to_restore_that_is_none_is_refused(lab: Lab, secret: Path, plant: Plant) -> None:
    plant(lab.root / "given", secret)
    untouched(lab, lab.root / "given", "is no ")
