"""Managed by celery-pi. The app's part of a backup: its databases and its `.env`.

Whoever may write the app's directory could redirect root by a link, so the app's user reads,
copies and replaces its files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

from celery_pi_tools.backup.common import BackupError
from celery_pi_tools.backup.workspace import (
    copy_timeout,
    lent,
    number,
    received,
    require_space,
    room,
    run_as_root,
    script,
    spare,
)
from celery_pi_tools.config import Settings
from celery_pi_tools.env_file import OURS, assigned, with_lines
from celery_pi_tools.privileges import (
    MIB,
    MISSING,
    PYTHON,
    Failed,
    attempt,
    place,
    read,
    replace,
    run,
)

SQLITE = Path(__file__).with_name("sqlite_copy.py")
ENV = "app/.env"
LARGEST_ENV = MIB  # bytes
MARIADB = "mariadb/"
DUMP = ("mariadb-dump", "--single-transaction", "--routines", "--triggers", "--events", "--")
# A dump could else have a program run: https://mariadb.com/kb/en/mariadb-command-line-client/
LOAD = ("mariadb", "--sandbox")
COMPLETE = b"-- Dump completed"
# A file that a link leads to goes, and the link stays; beside a database, its logs go too.
REMOVE = 'file=$(readlink -f -- "$1") && rm -f -- "$file" "$file-wal" "$file-shm" "$file-journal"'
RETRY_TIME = 3  # seconds in which a file comes back that another one replaces
MARIADB_TIMEOUT = 6 * 3600  # seconds for MariaDB, of whose size nothing is known

Copy = TypeVar("Copy")


def member_names(settings: Settings) -> set[str]:
    """Names of the members, other than Redis', for which this machine has a place."""
    names = {ENV, *(f"app/{name}" for name in settings["backup_databases"])}
    return names | ({mariadb(settings)} if settings["backup_mariadb"] else set())


def mariadb(settings: Settings) -> str:
    """Name of the dump in an archive."""
    return f"{MARIADB}{settings['backup_mariadb']}.sql"


def gather(
    settings: Settings, work: Path, before: Container[str] = ()
) -> Iterator[tuple[str, Path]]:
    """Name in the archive, and copy below `work`, of all that is there.

    Raises BackupError when one of `before`, the names in the last backup, is missing.
    """
    if settings["backup_app"]:
        for position, name in enumerate(f"app/{path}" for path in settings["backup_databases"]):
            if present(name, settings, before, size_of) is not None:
                copy(name, settings, work / str(position), check=True)
                yield name, work / str(position)
        text = present(ENV, settings, before, read_env)
        if text is not None:
            (work / "env").write_bytes(text)
            yield ENV, work / "env"
    if settings["backup_mariadb"]:
        yield mariadb(settings), dump(settings, work / "mariadb.sql")


def present(
    name: str,
    settings: Settings,
    before: Container[str],
    read: Callable[[Settings, str], Copy | None],
) -> Copy | None:
    """What `read` finds, or None if it was not in the last backup either. It retries for some
    seconds, because a file may be removed before it is replaced."""
    deadline = time.monotonic() + RETRY_TIME
    while (copy_found := read(settings, name)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    if copy_found is None:
        path = place_of(name, settings)
        if name in before:
            raise BackupError(f"{path} was in the last backup and is missing now")
        print(f"celery-pi: there is no {path}; the backup is without it", flush=True)
    return copy_found


def place_of(name: str, settings: Settings) -> Path:
    """Path on this machine of that member of an archive."""
    return Path(settings["app_dir"], *PurePosixPath(name).parts[1:])


def size_of(settings: Settings, name: str) -> int | None:
    """Bytes of the database, with its log; None where there is none."""
    words = (PYTHON, "-I", "-S", str(SQLITE), "size", str(place_of(name, settings)))
    done = attempt(settings["app_user"], words)
    if done.status == MISSING:
        return None
    if done.status:
        raise Failed(done.last_words)
    return number(done.out.decode(errors="replace"))


def copy(name: str, settings: Settings, target: Path, check: bool) -> None:
    """Copies the database as it is now to a file of root's."""
    user, size = settings["app_user"], size_of(settings, name) or 0
    require_space(target.parent, 2 * size)  # his copy and ours
    with room(user) as scratch:
        words = (str(place_of(name, settings)), str(scratch / "copy"))
        copied = number(script(user, SQLITE, "copy", *words, timeout=copy_timeout(size)))
        if check:
            script(user, SQLITE, "check", words[1], timeout=copy_timeout(copied))
        received(user, scratch / "copy", target, copied)


def read_env(settings: Settings, name: str = ENV) -> bytes | None:
    try:
        return read(settings["app_user"], str(place_of(name, settings)), LARGEST_ENV)
    except FileNotFoundError:
        return None


def dump(settings: Settings, file: Path) -> Path:
    """The database as SQL; root is logged in by MariaDB's socket."""
    with file.open("wb") as output:
        command = (*DUMP, settings["backup_mariadb"])
        run_as_root(*command, sink=output, limit=spare(file.parent), timeout=MARIADB_TIMEOUT)
    return file


def check(name: str, file: Path, settings: Settings) -> None:
    """Raises BackupError unless the unpacked member, a file of ours in a workspace, is whole."""
    size = file.stat().st_size
    if name.startswith(MARIADB):
        with file.open("rb") as content:
            content.seek(max(0, size - 200))
            if COMPLETE not in content.read():
                raise BackupError(f"{name} is not a whole dump")
    elif name == ENV:
        if size > LARGEST_ENV:
            raise BackupError(f"{name} is larger than {LARGEST_ENV} bytes")
    else:
        user = settings["app_user"]
        with lent(file, user) as path:
            script(user, SQLITE, "check", str(path), timeout=copy_timeout(size))


def check_place(name: str, settings: Settings) -> None:
    """Raises Refused where the member may not be put: a link of the app's leads elsewhere."""
    if name == ENV:
        with place(str(place_of(name, settings)), settings["app_user"]):
            pass


def put(name: str, file: Path, settings: Settings) -> None:
    """Replaces what the app has by the member."""
    if name.startswith(MARIADB):
        with file.open("rb") as content:
            database = f"--database={settings['backup_mariadb']}"
            run_as_root(*LOAD, database, stdin=content, timeout=MARIADB_TIMEOUT)
    elif name == ENV:
        put_env(file.read_bytes(), settings)
    else:
        user, size = settings["app_user"], file.stat().st_size
        with lent(file, user) as path:
            words = (str(path), str(place_of(name, settings)))
            script(user, SQLITE, "put", *words, timeout=copy_timeout(size))


def keep(name: str, into: Path, settings: Settings) -> Path | None:
    """A copy of what is there now, as an archive would hold it; none where nothing is."""
    file = into / PurePosixPath(name).name
    if name.startswith(MARIADB):
        return dump(settings, file)
    if name == ENV:
        text = read_env(settings)
        if text is not None:
            file.write_bytes(text)
        return file if text is not None else None
    if size_of(settings, name) is None:
        return None
    copy(name, settings, file, check=False)
    return file


def remove(name: str, settings: Settings) -> None:
    """The app has no such file, as before it was put there. Raises Refused."""
    words = ("/bin/sh", "-c", REMOVE, "sh", str(place_of(name, settings)))
    run(settings["app_user"], words)


def put_env(text: bytes, settings: Settings) -> None:
    """Writes `.env` atomically, with this machine's own variables; 0600, the app user's."""
    current = read_env(settings)
    if current is not None:
        text = with_ours(text, current)
    replace(str(place_of(ENV, settings)), text, user=settings["app_user"])


def with_ours(text: bytes, current: bytes) -> bytes:
    """The text, with the current assignments of what a deploy sets: a restore keeps this machine's
    own values."""
    lines = {assigned(line): line.rstrip(b"\r\n") for line in current.splitlines(True)}
    return with_lines(text, {name: lines.get(name) for name in OURS})
