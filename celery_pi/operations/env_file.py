"""Our variables in the app's own `.env`; every other byte of it is the owner's."""

from __future__ import annotations

import base64
import re
from collections.abc import Generator, Mapping
from shlex import quote
from typing import NamedTuple

from pyinfra import host, logger, state
from pyinfra.api import QuoteString, StringCommand, operation

from celery_pi.remote import announce_write, as_user, assign, read_quietly, replace_file

# `readlink -f` because deployment tools keep a shared `.env` behind a link.
READ = r"""
set -e
real=$(readlink -f "$path")
echo "$real"
may_write() { runuser -u "$user" -- test -w "${1%/*}"; }
if may_write "$path" || may_write "$real"; then echo "$user"; else echo root; fi
[ ! -e "$real" ] || { stat -c '%a %U %G' "$real"; base64 -w0 "$real"; echo; }
"""

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

    Where `user` may write the directory, it is he who writes: what he could do to root's steps
    there, by a link or a rename, he can then only do to his own.
    """
    found = _read(path, user)
    content = with_variables(found.content, variables)
    if content != found.content or (found.user, found.group) != (user, group):
        announce_write(host, path)
        _show_change(path, found.content, variables)
        yield replace_file(
            found.real, content, user=user, group=group, mode=mode, writer=found.writer
        )
    elif found.mode != mode.lstrip("0"):
        chmod = ("chmod", mode, QuoteString(found.real))
        yield StringCommand(*chmod) if found.writer == "root" else as_user(found.writer, *chmod)
    else:
        host.noop(f"{path} has our variables")


def with_variables(before: bytes, variables: Mapping[str, str]) -> bytes:
    """The text of an env file with the variables set."""
    end = b"\r\n" if b"\r\n" in before else b"\n"
    missing = dict(variables)
    kept = []
    for line in before.splitlines(keepends=True):
        name = _assigned(line)
        if name not in variables:
            kept.append(line)
        elif name in missing:
            kept.append(_with_value(line, name, missing.pop(name)))
    if missing:
        if kept and not kept[-1].endswith(b"\n"):
            kept[-1] += end
        if kept and kept[-1].rstrip(b"\r\n").endswith(b"\\"):
            kept.append(end)  # else systemd would take our first line for the rest of that one
        kept += [HEADING + end] if HEADING not in before else []
        kept += [_assignment(name, value) + end for name, value in missing.items()]
    return b"".join(kept)


def _assigned(line: bytes) -> str:
    """Name of the variable that the line sets, or nothing."""
    match = re.match(rb"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=", line)
    return match[1].decode() if match else ""


def _with_value(line: bytes, name: str, value: str) -> bytes:
    """The line with another value and its own line end.

    Without `export`, if it had that: systemd takes no such line, and logs it, value and all.
    """
    return _assignment(name, value) + line[len(line.rstrip(b"\r\n")) :]


def _assignment(name: str, value: str) -> bytes:
    return f"{name}={value and quote(value)}".encode()


class Found(NamedTuple):
    """The file behind the path, who may write beside it, and what it is; empty if it is not."""

    real: str
    writer: str
    mode: str
    user: str
    group: str
    content: bytes


def _read(path: str, user: str) -> Found:
    lines = read_quietly(host, StringCommand(assign(path=path, user=user), READ)).splitlines()
    if len(lines) == 2:
        return Found(lines[0], lines[1], "", "", "", b"")
    content = base64.b64decode(lines[3]) if len(lines) > 3 else b""
    mode, owner, group = lines[2].split()
    return Found(lines[0], lines[1], mode, owner, group, content)


def _show_change(path: str, before: bytes, variables: Mapping[str, str]) -> None:
    if state.config.DIFF:
        present = {_assigned(line) for line in before.splitlines()}
        host.log(f"Will modify {path} (values are not shown)", logger.info)
        for name in variables:
            logger.info(f"  {'set' if name in present else 'add'} {name}")
