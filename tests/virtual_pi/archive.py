"""Tar archives of what is to be laid out on the machine, with owners and modes set by us."""

import io
import tarfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A file, or without `content` a directory, as it is to be on the machine."""

    path: str
    owner: str
    mode: int
    content: bytes | None = None


def pack_tree(local: Path, remote: str, owner: str) -> bytes:
    """An archive of a local tree, to be laid out as `remote`, with its modes and one owner."""
    entries = [Entry(remote, owner, local.stat().st_mode & 0o7777)]
    for path in sorted(local.rglob("*")):
        mode = path.stat().st_mode & 0o7777
        content = path.read_bytes() if path.is_file() else None
        entries.append(Entry(f"{remote}/{path.relative_to(local)}", owner, mode, content))
    return pack(entries)


def pack(entries: Iterable[Entry]) -> bytes:
    """An archive of the entries in the order given; the machine resolves the owners' names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries:
            archive.addfile(_header(entry), io.BytesIO(entry.content or b""))
    return buffer.getvalue()


def _header(entry: Entry) -> tarfile.TarInfo:
    header = tarfile.TarInfo(entry.path.lstrip("/"))
    header.type = tarfile.DIRTYPE if entry.content is None else tarfile.REGTYPE
    header.size = len(entry.content or b"")
    header.mode = entry.mode
    header.mtime = time.time()
    header.uname, _, header.gname = entry.owner.partition(":")
    return header
