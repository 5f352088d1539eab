"""Managed by celery-pi. Who may read a file, and who may change what root uses."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from celery_pi_tools.privileges import Refused, foreign_steps, group_name, others_in, user_name

PATH = re.compile(r"(?<![\w./-])/[\w.+@:/-]+")
SCRIPT = (".py", ".sh", ".pl")
# The rest of the command runs as another user.
HANDED_OVER = re.compile(r"\b(runuser|setpriv|su|sudo|celery_pi_tools/privileges\.py run)\b")


def access(file: Path) -> str:
    """Mode and owners of what the path leads to: `600 root:root`."""
    state = file.stat()
    owners = f"{user_name(state.st_uid)}:{group_name(state.st_gid)}"
    return f"{stat.S_IMODE(state.st_mode):o} {owners}"


def changed_by(path: str) -> str:
    """How users other than root can change what is at the path; empty if they cannot."""
    try:
        for directory in foreign_steps(path):
            return f"{path} leads through {directory}, which {writer(directory)} may change"
        state = os.stat(path)  # noqa: PTH116
    except Refused as error:
        return str(error)
    except OSError:
        return ""  # nothing is there, and nobody else can put anything there
    others = others_in(state)
    return f"{path} may be written by {others}" if others else ""


def writer(directory: str) -> str:
    return others_in(os.stat(directory)) or "another user"  # noqa: PTH116


def programs(command: str) -> list[str]:
    """Paths in a command that root runs, itself or by an interpreter."""
    roots = HANDED_OVER.split(command)[0]
    return [path for path in PATH.findall(roots) if is_program(path)]


def is_program(path: str) -> bool:
    try:
        state = os.stat(path)  # noqa: PTH116
    except OSError:
        # What is missing, somebody may still put there.
        return path.endswith(SCRIPT)
    executable = bool(state.st_mode & 0o111) or path.endswith(SCRIPT)
    return stat.S_ISREG(state.st_mode) and executable
