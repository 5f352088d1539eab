"""Managed by celery-pi. The app's part of a backup: its databases and its `.env`.

Whoever may write the app's directory could lead root astray there, by a link, so its files are
read, copied and replaced by the app's user.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from celery_pi_backup import Settings, Trouble
from celery_pi_backup.hands import become, hand_over, need, room_for, run, workspace

SQLITE = Path(__file__).with_name("sqlite.py")
ENV = "app/.env"
MARIADB = "mariadb/"
DUMP = ("mariadb-dump", "--single-transaction", "--routines", "--triggers", "--events")
COMPLETE = b"-- Dump completed"
# What a deploy sets in `.env`; where it is, it is this machine's own.
OURS = re.compile(rb"\s*(CELERY_(?:_?BROKER_URL|_?RESULT_BACKEND|KEY_PREFIX))=")


def gather(settings: Settings, work: Path) -> Iterator[tuple[str, Path]]:
    """Name in the archive, and copy below `work`, of all that is there."""
    if settings["backup_app"]:
        user = settings["app_user"]
        room = room_for(user, work / "app")
        for number, name in enumerate(settings["backup_databases"]):
            source = place_of(f"app/{name}", settings)
            if is_there(source, user):
                need(work, size_of(source, user))
                copy = room / str(number)
                sqlite(user, "copy", str(source), str(copy))
                sqlite(user, "check", str(copy))
                yield f"app/{name}", copy
            else:
                print(f"celery-pi: there is no {source}; the backup is without it", flush=True)
        if is_there(place_of(ENV, settings), user):
            (work / "env").write_bytes(read_env(settings))
            yield ENV, work / "env"
    if settings["backup_mariadb"]:
        name = f"{MARIADB}{settings['backup_mariadb']}.sql"
        yield name, dump(name, work / "mariadb.sql")


def place_of(name: str, settings: Settings) -> Path:
    """Where on this machine that member of an archive belongs."""
    return Path(settings["app_dir"], *PurePosixPath(name).parts[1:])


def is_there(path: Path, user: str) -> bool:
    return run("sh", "-c", '[ ! -f "$0" ] || echo yes', str(path), **become(user)) != b""


def size_of(path: Path, user: str) -> int:
    return int(run("stat", "-L", "-c", "%s", str(path), **become(user)))


def sqlite(user: str, *words: str) -> None:
    run(sys.executable, "-I", str(SQLITE), *words, umask=0o027, **become(user))


def read_env(settings: Settings) -> bytes:
    return run("cat", str(place_of(ENV, settings)), **become(settings["app_user"]))


def dump(name: str, file: Path) -> Path:
    """The database as SQL; root is logged in by MariaDB's socket."""
    with file.open("wb") as output:
        run(*DUMP, _database(name), stdout=output)
    return file


def _database(name: str) -> str:
    return name.removeprefix(MARIADB).removesuffix(".sql")


def check(name: str, file: Path, settings: Settings) -> None:
    """Trouble unless the unpacked member, a file of ours in a workspace, is whole."""
    if name.startswith(MARIADB):
        with file.open("rb") as content:
            content.seek(max(0, file.stat().st_size - 200))
            if COMPLETE not in content.read():
                raise Trouble(f"{name} is not a whole dump")
    elif name != ENV:
        user = settings["app_user"]
        with workspace() as work:
            sqlite(user, "check", str(hand_over(file, user, room_for(user, work / "check"))))


def put(name: str, file: Path, settings: Settings) -> None:
    """What the member holds is what the app has."""
    if name.startswith(MARIADB):
        with file.open("rb") as content:
            run("mariadb", _database(name), stdin=content)
    elif name == ENV:
        put_env(file.read_bytes(), settings)
    else:
        user = settings["app_user"]
        with workspace() as work:
            copy = hand_over(file, user, room_for(user, work / "put"))
            sqlite(user, "copy", str(copy), str(place_of(name, settings)))


def keep(name: str, into: Path, settings: Settings) -> Path | None:
    """A copy of what is there now, as an archive would hold it; none where nothing is."""
    file = into / PurePosixPath(name).name
    user = settings["app_user"]
    if name.startswith(MARIADB):
        return dump(name, file)
    if not is_there(place_of(name, settings), user):
        return None
    if name == ENV:
        file.write_bytes(read_env(settings))
        return file
    with workspace() as work:
        copy = room_for(user, work / "keep") / "copy"
        sqlite(user, "copy", str(place_of(name, settings)), str(copy))
        shutil.copyfile(copy, file)
    return file


def put_env(text: bytes, settings: Settings) -> None:
    """The text with this machine's own variables, in one step; 0600, the app user's."""
    path = place_of(ENV, settings)
    if is_there(path, settings["app_user"]):
        text = with_ours(text, read_env(settings))
    who = become(settings["app_user"])
    path = Path(os.path.realpath(path))
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        new = f".celery-pi-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(new, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(text)
            file.flush()
            os.fchown(file.fileno(), who["user"], who["group"])
            os.fsync(file.fileno())
        os.replace(new, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)


def with_ours(text: bytes, current: bytes) -> bytes:
    """Of our variables the current assignments, of all others those of the text."""
    mine = {found[1]: line for line in current.splitlines(True) if (found := OURS.match(line))}
    kept = []
    for line in text.splitlines(True):
        found = OURS.match(line)
        kept.append(mine.pop(found[1], b"") if found else line)
    if mine and kept and not kept[-1].endswith(b"\n"):
        kept.append(b"\n")
    return b"".join([*kept, *mine.values()])
