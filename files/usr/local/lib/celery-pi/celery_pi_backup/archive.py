"""Managed by celery-pi. One file for a whole backup, which tells by itself whether it is whole.

A tar archive in gzip, which every machine can open, with `manifest.json` first. Behind it comes an
empty gzip member whose comment is the SHA-256 of all before: a byte that is changed or missing
anywhere shows, those too that gzip's own sum does not cover. https://www.rfc-editor.org/rfc/rfc1952
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any

from celery_pi_backup import Trouble
from celery_pi_backup.hands import need

FORMAT = 1
LEVEL = 3  # Redis has compressed most of it already
MANIFEST = "manifest.json"
BEGIN = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
EMPTY = b"\x1f\x8b\x08\x10\x00\x00\x00\x00\x00\xff%s\x00\x03\x00" + bytes(8)
COMMENT = b"celery-pi sha256 %s"
SEAL = len(EMPTY % (COMMENT % (b"0" * 64)))
LONGEST = 2**20  # bytes of a manifest
BLOCK = 2**20

Manifest = dict[str, Any]


def digest(file: IO[bytes], length: int = -1) -> str:
    """SHA-256 of the rest of the file, or of that many bytes of it."""
    sha = hashlib.sha256()
    left = length
    while block := file.read(BLOCK if length < 0 else min(BLOCK, left)):
        sha.update(block)
        left -= len(block)
    return sha.hexdigest()


def described(path: Path, name: str, **more: Any) -> dict[str, Any]:
    """What the manifest says of a member."""
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


def check_seal(path: Path) -> None:
    """Trouble unless the file is a backup, and whole to the last bit."""
    with path.open("rb") as file:
        begin = file.read(len(BEGIN))
        body = file.seek(0, os.SEEK_END) - SEAL
        file.seek(max(0, body))
        seal = file.read()
        file.seek(0)
        if body > 0 and seal == EMPTY % (COMMENT % digest(file, body).encode()):
            return
    if begin == BEGIN and re.search(rb"celery-pi sha256 [0-9a-f]{64}\x00", seal):
        raise Trouble(f"{path} is damaged: it is not what was written")
    if begin == BEGIN:
        raise Trouble(f"{path} is cut off, damaged, or no backup of celery-pi")
    raise Trouble(f"{path} is no backup of celery-pi")


def unpack(path: Path, into: Path) -> Manifest:
    """The manifest; each member is a file below `into` afterwards, by its name in the archive.

    Trouble unless all that the manifest names is there, as it says, and nothing else.
    """
    check_seal(path)
    try:
        with tarfile.open(path, "r:gz") as tar:
            return _unpack(path, tar, into)
    except (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise Trouble(f"{path} is damaged: {type(error).__name__}") from error


def _unpack(path: Path, tar: tarfile.TarFile, into: Path) -> Manifest:
    manifest = _manifest(path, tar)
    expected = {member["name"]: member for member in manifest["members"]}
    need(into, sum(member["size"] for member in expected.values()))
    while entry := tar.next():
        member = expected.pop(entry.name, None)
        content = tar.extractfile(entry) if entry.isreg() else None
        if member is None or content is None or ".." in entry.name or entry.name[0] == "/":
            raise Trouble(f"{path} holds {entry.name}, which its manifest does not name")
        target = into / entry.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if _extract(content, target) != member["sha256"]:
            raise Trouble(f"{entry.name} in {path} is not what its manifest says")
    if expected:
        raise Trouble(f"{path} lacks {', '.join(expected)}, which its manifest names")
    return manifest


def _manifest(path: Path, tar: tarfile.TarFile) -> Manifest:
    entry = tar.next()
    content = tar.extractfile(entry) if entry and entry.name == MANIFEST else None
    if content is None:
        raise Trouble(f"{path} is no backup of celery-pi")
    manifest: Manifest = json.loads(content.read(LONGEST))
    if manifest["format"] != FORMAT:
        raise Trouble(f"{path} was made by another version of celery-pi: format {FORMAT} is known")
    return manifest


def _extract(content: IO[bytes], target: Path) -> str:
    sha = hashlib.sha256()
    with target.open("xb") as file:
        while block := content.read(BLOCK):
            sha.update(block)
            file.write(block)
    return sha.hexdigest()
