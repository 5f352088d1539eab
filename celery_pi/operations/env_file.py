"""Our variables in the app's own `.env`; every other byte of it is the owner's."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Mapping
from typing import NamedTuple

from pyinfra import host, state
from pyinfra.api import StringCommand, operation

from celery_pi.before import DIRECTORY
from celery_pi.plan import details, will
from celery_pi.privileges import READ_AS, privileged
from celery_pi.shell import announce_write, assign, read_quietly, script
from celery_pi_tools import env_file as env_text
from celery_pi_tools.env_file import assigned

# It prints nothing for anything but a plain file. If one was swapped in, its owner and mode can at
# worst cause the file to be written anew.
READ = r"""
[ -f "$path" ] && [ ! -L "$path" ] || exit 0
stat -c '%a %U %G %s' -- "$path"
read_as "$user" "$path" | timeout -s KILL 10 base64 -w0
"""

# What was cut off on its way is not taken for whole. The shell prints it by itself, so that it is
# in no process' arguments.
WHOLE = r"""
[ ! -L "$path" ] || how=replace
sent=$(cat)
[ "${#sent}" = "$size" ] || { echo "celery-pi: $path was cut off on its way" >&2; exit 1; }
printf %s "$sent" | base64 -d |"""

HEADING = b"# Set by celery-pi; a deploy puts these lines back."


@operation()
def env_file(
    path: str, variables: Mapping[str, str], user: str, group: str, mode: str = "0600"
) -> Generator[StringCommand]:
    """The variables have these values in the file, which belongs to `user` and has that mode.

    An assignment that is there is changed in place (a further one of the same name goes), one
    that is not is added at the end. Comments, other lines and their line ends are kept. A value
    that a shell would not take as it is gets quotes, which readers of such files take off. The
    diff names variables and shows no value.

    Who may write the directory does the writing there, and who may read the file the reading: what
    he could do to root's steps, by a link or a rename, he can then only do to his own. What root
    refuses to do for that reason is an error with a sentence.
    """
    current = _read(path, user)
    content = with_variables(current.content, variables)
    if content != current.content or (current.user, current.group) != (user, group):
        announce_write(host, path)
        _add_to_plan(current, path, variables, content)
        _show_change(path, current.content, variables)
        yield _kept(path, current)
        yield _replaced(path, content, user, group, mode)
    elif current.mode != mode.lstrip("0"):
        will(
            host, "change", path, f"mode {current.mode} becomes {mode.lstrip('0')}", is_owners=True
        )
        yield _kept(path, current)
        yield _replaced(path, content, user, group, mode, unless_link="give")
    else:
        host.noop(f"{path} has our variables")


KEPT = script("env_file_keep")


def _kept(path: str, current: EnvFile) -> StringCommand:
    """Command that keeps it as it was before us, the first time."""
    access = f"{current.mode} {current.user} {current.group}" if current.user else ""
    values = assign(path=path, before=DIRECTORY, copy=f"{DIRECTORY}/files{path}", access=access)
    return StringCommand(values, KEPT, _stdin=base64.b64encode(current.content).decode() + "\n")


def _replaced(
    path: str, content: bytes, user: str, group: str, mode: str, unless_link: str = "replace"
) -> StringCommand:
    """Command that is sent the content, in base64, so that every byte arrives.

    `give` sets the mode of a file and leaves all else; what a link leads to it would not touch.
    """
    encoded = base64.b64encode(content).decode()
    values = assign(path=path, size=str(len(encoded)), how=unless_link)
    do = privileged('"$how"', user, group, mode, path)
    return StringCommand(values, WHOLE, do, _stdin=encoded)


def with_variables(before: bytes, variables: Mapping[str, str]) -> bytes:
    """The text of an env file with the variables set, below our heading where they are added."""
    return env_text.with_variables(before, variables, HEADING)


class EnvFile(NamedTuple):
    """What the path leads to; empty where nothing is."""

    mode: str
    user: str
    group: str
    content: bytes


def _read(path: str, user: str) -> EnvFile:
    """Quickly where it is a file that the user can read, as it nearly always is."""
    command = StringCommand(assign(path=path, user=user), READ_AS, READ)
    lines = read_quietly(host, command).splitlines()
    if len(lines) == 2:
        mode, owner, group, size = lines[0].split()
        content = base64.b64decode(lines[1])
        if len(content) == int(size):
            return EnvFile(mode, owner, group, content)
    shown = json.loads(read_quietly(host, privileged("show", user, path)))
    if not shown:
        return EnvFile("", "", "", b"")
    content = base64.b64decode(shown["content"])
    return EnvFile(shown["mode"], shown["user"], shown["group"], content)


def changed_names(before: bytes, variables: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Names of the variables whose line in the text changes, and of those that get one."""
    present = {assigned(line) for line in before.splitlines()}
    added = [name for name in variables if name not in present]
    changed = [
        name
        for name, value in variables.items()
        if name in present and with_variables(before, {name: value}) != before
    ]
    return changed, added


def _add_to_plan(current: EnvFile, path: str, variables: Mapping[str, str], content: bytes) -> None:
    """The names of what changes in it, never a value."""
    changed, added = changed_names(current.content, variables)
    changes = [f"sets {' '.join(changed)}"] if changed else []
    changes += [f"adds {' '.join(added)}"] if added else []
    changes += ["gets another owner"] if content == current.content else []
    will(host, "change", path, ", ".join(changes), is_owners=True)


def _show_change(path: str, before: bytes, variables: Mapping[str, str]) -> None:
    if state.config.DIFF:
        present = {assigned(line) for line in before.splitlines()}
        lines = [f"{'set' if name in present else 'add'} {name}" for name in variables]
        details(host, f"Will modify {path} (values are not shown)", lines)
