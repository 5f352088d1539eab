"""Managed by celery-pi. What a process shows of itself in /proc.

Any process can make its command line and its environment as large as its memory (prctl(2),
PR_SET_MM_MAP). No more is read than a process may be started with (execve(2)).
"""

from __future__ import annotations

from pathlib import Path

LARGEST = 6 * 2**20  # bytes of a command line and an environment


def command_line(process: Path, limit: int = LARGEST) -> bytes:
    """The beginning of its command line, so many bytes at most; empty once it has ended."""
    try:
        return _beginning(process / "cmdline", limit)
    except (FileNotFoundError, ProcessLookupError):
        return b""


def environment(process: Path) -> bytes | None:
    """Its environment; None if it is larger than LARGEST. Raises OSError once it has ended."""
    content = _beginning(process / "environ", LARGEST + 1)
    return content if len(content) <= LARGEST else None


def _beginning(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(size)
