"""Managed by celery-pi. The file of a backup.

A tar archive in gzip, which every machine can open, with `manifest.json` first. Its trailer is an
empty gzip member whose comment is the SHA-256 of all before it: it detects any byte that is changed
or missing, also where gzip's own checksum does not. https://www.rfc-editor.org/rfc/rfc1952
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from celery_pi_tools.backup.common import BackupError
from celery_pi_tools.backup.manifest_schema import check_manifest
from celery_pi_tools.backup.workspace import require_space

FORMAT = 1
LEVEL = 3  # Redis has compressed most of it already
MANIFEST = "manifest.json"
RDB = "redis/dump.rdb"
BEGIN = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
EMPTY = b"\x1f\x8b\x08\x10\x00\x00\x00\x00\x00\xff%s\x00\x03\x00" + bytes(8)
COMMENT = b"celery-pi sha256 %s"
TRAILER_SIZE = len(EMPTY % (COMMENT % (b"0" * 64)))
LONGEST = 2**20  # bytes of a manifest
LONGEST_HEADER = 2**16  # bytes of a member's header in tar; its name is a part of it
BLOCK = 2**20

Manifest = dict[str, Any]
DAMAGED = (
    *(tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError),
    *(ValueError, KeyError, TypeError, AttributeError),
)


class Entry(tarfile.TarInfo):
    """A member that is a plain file, with a head that fits into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        plain = self.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if not plain and (self.type != tarfile.XHDTYPE or not 0 <= self.size <= LONGEST_HEADER):
            raise tarfile.ReadError("it holds what no backup of ours does")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The one file that is looked at and unpacked, whatever has its name later."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BackupError(f"{path} is no regular file")
        yield file


def digest(file: IO[bytes], length: int = -1) -> str:
    """SHA-256 of the rest of the file, or of that many bytes of it."""
    sha = hashlib.sha256()
    left = length
    while block := file.read(BLOCK if length < 0 else min(BLOCK, left)):
        sha.update(block)
        left -= len(block)
    return sha.hexdigest()


def described(path: Path, name: str, **more: Any) -> dict[str, Any]:
    """A member's entry in the manifest."""
    with path.open("rb") as file:
        return {"name": name, "size": path.stat().st_size, "sha256": digest(file), **more}


def write(path: Path, manifest: Manifest, members: dict[str, Path]) -> None:
    """The archive, on the disk; `members` are files by their names in it."""
    with path.open("x+b") as file:
        with (
            gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            text = json.dumps({"format": FORMAT, **manifest}, indent=2).encode()
            _add(tar, MANIFEST, io.BytesIO(text), len(text))
            for name, member in members.items():
                with member.open("rb") as content:
                    _add(tar, name, content, member.stat().st_size)
        file.flush()
        file.seek(0)
        file.write(EMPTY % (COMMENT % digest(file).encode()))
        file.flush()
        os.fsync(file.fileno())


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    tar.addfile(entry, content)


def check_trailer(path: Path) -> None:
    """Raises BackupError unless the file is a backup, and whole to the last bit."""
    with opened(path) as file:
        _check_trailer(path, file)


def _check_trailer(path: Path, file: IO[bytes]) -> None:
    begin = file.read(len(BEGIN))
    body = file.seek(0, os.SEEK_END) - TRAILER_SIZE
    file.seek(max(0, body))
    trailer = file.read(TRAILER_SIZE + 1)
    file.seek(0)
    if begin != BEGIN:
        raise BackupError(f"{path} is no backup of celery-pi")
    if body <= 0 or not re.search(rb"celery-pi sha256 [0-9a-f]{64}\x00", trailer):
        raise BackupError(f"{path} is cut off, damaged, or no backup of celery-pi")
    if trailer != EMPTY % (COMMENT % digest(file, body).encode()):
        raise BackupError(f"{path} is damaged: it is not what was written")


def unpack(path: Path, into: Path, known: Collection[str]) -> Manifest:
    """Extracts each member to its name below `into`; returns the manifest.

    Raises BackupError unless the archive holds exactly what its manifest names, and each name is
    one of `known`, those for which this machine's settings have a place.
    """
    with opened(path) as file:
        _check_trailer(path, file)
        with _read(path, file) as tar:
            return _unpack(path, tar, into, known)


def names(path: Path) -> set[str]:
    """Names of the members in the archive's manifest. Raises BackupError."""
    with opened(path) as file, _read(path, file) as tar:
        return {member["name"] for member in _manifest(path, tar)["members"]}


@contextmanager
def _read(path: Path, file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:gz", tarinfo=Entry) as tar:
            yield tar
    except DAMAGED as error:
        raise BackupError(f"{path} is damaged: {type(error).__name__}") from error


def _unpack(path: Path, tar: tarfile.TarFile, into: Path, known: Collection[str]) -> Manifest:
    manifest = _manifest(path, tar)
    expected = {member["name"]: member for member in manifest["members"]}
    for name in expected:
        if name not in known:
            raise BackupError(
                f"{path} holds {name}, for which this machine's settings have no place"
            )
    require_space(into, sum(member["size"] for member in expected.values()))
    while entry := tar.next():
        member = expected.pop(entry.name, None)
        content = tar.extractfile(entry) if entry.isreg() else None
        if member is None or content is None:
            raise BackupError(f"{path} holds {entry.name}, which its manifest does not name")
        target = into / entry.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.size != member["size"] or _extract(content, target) != member["sha256"]:
            raise BackupError(f"{entry.name} in {path} is not what its manifest says")
    if expected:
        raise BackupError(f"{path} lacks {', '.join(expected)}, which its manifest names")
    return manifest


def _manifest(path: Path, tar: tarfile.TarFile) -> Manifest:
    entry = tar.next()
    content = tar.extractfile(entry) if entry and entry.name == MANIFEST else None
    if content is None:
        raise BackupError(f"{path} is no backup of celery-pi")
    manifest: Manifest = json.loads(content.read(LONGEST))
    if manifest["format"] != FORMAT:
        raise BackupError(
            f"{path} was made by another version of celery-pi: format {FORMAT} is known"
        )
    check_manifest(manifest)
    return manifest


def _extract(content: IO[bytes], target: Path) -> str:
    sha = hashlib.sha256()
    with target.open("xb") as file:
        while block := content.read(BLOCK):
            sha.update(block)
            file.write(block)
    return sha.hexdigest()
