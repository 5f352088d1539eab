"""Commands by which root works as another user on the target, or where another user may write.

They need nothing that is installed there: the module that all programs of ours use is sent along.
"""

from __future__ import annotations

from functools import cache

from pyinfra.api import StringCommand

from celery_pi.render import ROOT
from celery_pi.shell import python_program

MODULE = ROOT / "packages/celery-pi-tools/src/celery_pi_tools/privileges.py"

# For what each plan reads, since a Python takes ten times as long: the content of a regular file,
# its first MiB, as the user reads it; he gets nothing of root's, and 5 s.
READ_AS = r"""
read_as() {
  [ -f "$2" ] && gid=$(id -g "$1" 2>/dev/null) && timeout -s KILL 5 setsid -w env -i setpriv \
    --reuid "$1" --regid "$gid" --init-groups head -c 1048576 -- "$2" </dev/null 2>/dev/null
}
"""


@cache
def text() -> str:
    """The module."""
    return MODULE.read_text(encoding="utf-8")


def privileged(command: str, *words: str) -> StringCommand:
    """One of the module's commands, `show` or `give` and the like, which its head explains."""
    return python_program(text(), StringCommand(command), *words)
