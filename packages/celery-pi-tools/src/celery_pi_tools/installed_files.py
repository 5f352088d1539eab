"""Managed by celery-pi. The files that the last deploys have installed, compared with the disk."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import marshal
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from celery_pi_tools import manifest
from celery_pi_tools.config import LIBRARY
from celery_pi_tools.privileges import foreign_steps, group_name, others_in, user_name

LARGEST = 16 * 2**20  # bytes; none of ours has a tenth of it
HEADER = 16  # bytes of a file of bytecode before the code
BYTECODE = re.compile(r"(.+)\.(\w+-\d+)\.pyc")
UNFINISHED = re.compile(r".+\.pyc\.\d+")  # left by a power cut, and never loaded
NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)
State = list[str]


def changed() -> dict[str, str]:
    """The files that differ from what was deployed, and how."""
    differences = {path: difference(path, deployed) for path, deployed in manifest.files().items()}
    return {path: how for path, how in differences.items() if how}


def difference(path: str, deployed: State) -> str:
    """How the file differs, or nothing."""
    if place := next(foreign_steps(path, follow=False), ""):
        return f"lies in {place}, where others than root may write"
    try:
        current = state(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if current is None:
        return "is no file any more"
    (*access, digest), (*wanted_access, wanted_digest) = current, deployed
    if wanted_digest not in ("-", digest):
        return "was changed"
    now, expected = ("{} {}:{}".format(*each) for each in (access, wanted_access))
    return "" if now == expected else f"is {now}, not {expected}"


def state(path: str) -> State | None:
    """Mode, user, group and digest of the file; None if it is no regular file.

    A link is not followed. Raises OSError.
    """
    try:
        with open(path, "rb", opener=itself) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None
            large = status.st_size > LARGEST
            digest = "too large" if large else hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if error.errno in NO_FILE:
            return None
        raise
    mode = f"{stat.S_IMODE(status.st_mode):o}"
    return [mode, user_name(status.st_uid), group_name(status.st_gid), digest]


def itself(path: str, flags: int) -> int:
    """An opener that follows no link and does not wait."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


# -- files that no deploy has installed


def undeclared() -> list[str]:
    """Files where root's Python looks for our modules that no deploy has installed."""
    deployed = set(manifest.files())
    return sorted(_undeclared(deployed)) if deployed else []


def _undeclared(deployed: set[str]) -> Iterator[str]:
    for place, directories, files in os.walk(LIBRARY):
        paths = [Path(place, name) for name in files]
        paths += [Path(place, name) for name in directories if Path(place, name).is_symlink()]
        for path in paths:
            ours = (
                is_bytecode(path, deployed)
                if place.endswith("/__pycache__")
                else str(path) in deployed
            )
            if not ours:
                yield str(path)


def is_bytecode(path: Path, deployed: set[str]) -> bool:
    """Whether it is the bytecode of an installed module, in whose place root's Python loads it."""
    if UNFINISHED.fullmatch(path.name):
        return True
    named = BYTECODE.fullmatch(path.name)
    source = path.parent.with_name(f"{named[1]}.py") if named else path
    state = path.lstat()
    if not named or str(source) not in deployed or not stat.S_ISREG(state.st_mode):
        return False
    if others_in(state) or state.st_size > LARGEST:
        return False
    # Another Python's is not loaded by root's.
    return named[2] != sys.implementation.cache_tag or is_compiled(path, source)


def is_compiled(path: Path, source: Path) -> bool:
    """Whether it holds the compiled source, or is stale and therefore not loaded."""
    content, text = path.read_bytes(), source.read_bytes()
    state = source.stat()
    number, flags, when, size = struct.unpack("<4sIII", content[:HEADER].ljust(HEADER, b"\0"))
    if number != importlib.util.MAGIC_NUMBER:
        return True
    if not flags and (when, size) != (int(state.st_mtime) & 0xFFFFFFFF, len(text)):
        return True
    try:
        # Root's Python would load it anyway.
        code = marshal.loads(content[HEADER:])
    except (EOFError, TypeError, ValueError):
        return False
    return bool(code == compile(text, str(source), "exec", dont_inherit=True))
