"""What somebody may have put in the place of a file that a program of root's reads, and into a text
that it shows."""

from __future__ import annotations

import os
from pathlib import Path

SPARSE = 8 * 2**30  # bytes; they take no room on the disk

# A title of the window, a carriage return, a line that says that all is well, writing from right to
# left, a control sequence that begins in one byte, half a character.
TEXT = "\x1b]0;x\x07 \r \nall is well\nno problem\n \u202e \x9b2J \ud800"


def put(path: Path, what: str) -> None:
    """One of: fifo, device, sparse file, directory."""
    if what == "fifo":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "sparse file":
        path.touch()
        os.truncate(path, SPARSE)
    else:
        assert what == "directory"
        path.mkdir()
