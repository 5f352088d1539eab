"""Managed by celery-pi. Removes from the beginning of a log what logrotate has copied. Run as the
app's user: log_rotation.py LOG COPY

Several processes hold the log open, and most do not notice a rename; copytruncate loses what is
written between the copy and the truncation. So whole blocks are collapsed atomically (fallocate(1))
while others append. A line on the border is half in the log and half in the copy. Exit status: 0,
or 1 and one sentence, with the log as it was.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys

BLOCK = 4096  # bytes; of the file system


def opened(path: str) -> int:
    """A descriptor of the regular file itself; a link is refused. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    state = os.fstat(fd)
    if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
        sys.exit(f"celery-pi: {path} is no file of its own")
    return fd


def take(log: int, copy: int) -> bool:
    """Removes the blocks that the copy holds from the log, and the rest from the copy. Whether that
    succeeded."""
    taken = os.fstat(copy).st_size // BLOCK * BLOCK
    if not taken:
        return False
    cut = ("/usr/bin/fallocate", "--collapse-range", "--offset", "0", "--length", str(taken))
    done = subprocess.run((*cut, f"/proc/self/fd/{log}"), pass_fds=(log,), check=False)
    if done.returncode == 0:
        os.ftruncate(copy, taken)
    return done.returncode == 0


def main(log: str, copy: str) -> int:
    try:
        if take(opened(log), opened(copy)):
            return 0
        os.unlink(copy)  # noqa: PTH108
    except OSError as error:
        print(f"celery-pi: {error.filename or log}: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
