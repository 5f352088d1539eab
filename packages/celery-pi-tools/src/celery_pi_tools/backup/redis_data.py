"""Managed by celery-pi. Replaces Redis' files on the disk atomically. Run as user redis:

    redis_data.py put               a stopped server gets the contents of the RDB on standard input
    redis_data.py forget            removes the files that `put` has replaced
    redis_data.py keep INTO         copies the files as they are to that directory
    redis_data.py put_back KEPT     a stopped server gets what `keep` has copied

With the append-only file on, the server ignores dump.rdb and overwrites it. So the RDB becomes the
base of a new append-only file, beside the old one. The manifest names the one that counts, and is
replaced by a rename: whenever the power is cut, either the old data are there or the new.
https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import sys
from pathlib import Path
from typing import IO

DATA = Path("/var/lib/redis")
NAME = "appendonly.aof"
BLOCK = 2**20
LARGEST = 2**16  # bytes of a manifest
NUMBERED = re.compile(rf"{re.escape(NAME)}\.(\d+)\.(?:base|incr)\.(?:rdb|aof)")


def put(rdb: IO[bytes]) -> None:
    """A stopped server starts with what the RDB holds. The files of before lie there still."""
    directory = _aof()
    target = directory if directory.exists() else directory.with_name("appendonlydir.celery-pi")
    if target != directory:
        shutil.rmtree(target, ignore_errors=True)  # left by a restore that was cut off
        target.mkdir(mode=0o750)
    number = 1 + max((int(match[1]) for match in _numbered(directory)), default=0)
    base, further = f"{NAME}.{number}.base.rdb", f"{NAME}.{number}.incr.aof"
    _write(target / base, rdb)
    _write(target / further)  # without it the server would take up the old one of that name
    lines = f"file {base} seq {number} type b\nfile {further} seq {number} type i\n"
    _point(target, lines)
    if target != directory:
        target.replace(directory)
        _sync(DATA)


def forget() -> None:
    """What the manifest does not name goes, and so does the snapshot that is older than it."""
    named = _text(_aof() / f"{NAME}.manifest")
    for match in _numbered(_aof()):
        if match[0] not in named.split():
            (_aof() / match[0]).unlink()
    (DATA / "dump.rdb").unlink(missing_ok=True)


def keep(into: Path) -> None:
    """The files as they are now, there as well; where it can be, without a second copy."""
    for path in (*sorted(_aof().glob(f"{NAME}.*")), DATA / "dump.rdb"):
        if path.is_file() and not path.is_symlink():
            target = into / path.relative_to(DATA)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:  # another file system
                shutil.copyfile(path, target)


def put_back(kept: Path) -> None:
    """A stopped server starts with what was kept of it before `put`."""
    manifest = kept / "appendonlydir" / f"{NAME}.manifest"
    if not manifest.exists():
        shutil.rmtree(_aof(), ignore_errors=True)  # there was none
        return
    for path in manifest.parent.iterdir():
        if path != manifest and not (_aof() / path.name).exists():
            _copy(path, _aof() / path.name)
    _point(_aof(), _text(manifest))
    if (kept / "dump.rdb").exists() and not (DATA / "dump.rdb").exists():
        _copy(kept / "dump.rdb", DATA / "dump.rdb")
    for match in _numbered(_aof()):
        if not (manifest.parent / match[0]).exists():
            (_aof() / match[0]).unlink()


def _aof() -> Path:
    return DATA / "appendonlydir"


def _numbered(directory: Path) -> list[re.Match[str]]:
    paths = directory.iterdir() if directory.exists() else ()
    return [match for path in paths if (match := NUMBERED.fullmatch(path.name))]


def _copy(source: Path, target: Path) -> None:
    with _opened(source) as content:
        _write(target, content)


def _opened(path: Path) -> IO[bytes]:
    """A regular file; what else the app may have had Redis leave there has no end."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "It is no regular file", str(path))
    return os.fdopen(fd, "rb")


def _text(path: Path) -> str:
    """Text of a manifest."""
    with _opened(path) as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise OSError(errno.EFBIG, f"It is larger than {LARGEST} bytes", str(path))
    return text.decode()


def _write(target: Path, content: IO[bytes] | None = None) -> None:
    """Once it is on the disk; a new file, whatever has that name."""
    target.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
        if content:
            shutil.copyfileobj(content, file, BLOCK)
    target.chmod(0o600)
    _sync(target)


def _point(directory: Path, lines: str) -> None:
    """The manifest has these lines, in one step."""
    new = directory / f"{NAME}.manifest.celery-pi"
    _write(new, io.BytesIO(lines.encode()))
    new.replace(directory / f"{NAME}.manifest")
    _sync(directory)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def main(task: str, *words: str) -> None:
    if task == "put":
        put(sys.stdin.buffer)
    elif task == "forget":
        forget()
    else:
        {"keep": keep, "put_back": put_back}[task](Path(*words))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
