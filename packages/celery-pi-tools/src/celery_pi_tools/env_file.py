"""Managed by celery-pi. Variables in an env file, such as the app's `.env`; every other byte of it
is the owner's. A deploy edits it with this module too (`celery_pi/operations/env_file.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from shlex import quote, split

# Both spellings: with one underscore as most apps read it, with two for nested pydantic settings.
URLS = (
    *("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"),
    *("CELERY__BROKER_URL", "CELERY__RESULT_BACKEND"),
)
OURS = (*URLS, "CELERY_KEY_PREFIX")  # what a deploy sets in the app's
ASSIGNED = re.compile(rb"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")


def assigned(line: bytes) -> str:
    """Name of the variable that the line sets, or nothing."""
    match = ASSIGNED.match(line)
    return match[1].decode() if match else ""


def values(text: bytes) -> dict[str, str]:
    """Value of each variable, the last one counts; without quotes."""
    lines = ((assigned(line), line.partition(b"=")[2]) for line in text.splitlines())
    return {name: _unquoted(value.decode(errors="replace")) for name, value in lines if name}


def _unquoted(text: str) -> str:
    try:
        return " ".join(split(text))
    except ValueError:
        return text.strip()  # a quote without its end


def with_variables(before: bytes, variables: Mapping[str, str], heading: bytes = b"") -> bytes:
    """The text with each variable set once; `heading` is as for `with_lines`.

    A value that a shell would not take as it is gets quotes. A line that is replaced loses its
    `export`: systemd takes no such line, and logs it, value and all.
    """
    lines = {name: _assignment(name, value) for name, value in variables.items()}
    return with_lines(before, lines, heading)


def _assignment(name: str, value: str) -> bytes:
    return f"{name}={value and quote(value)}".encode()


def with_lines(before: bytes, lines: Mapping[str, bytes | None], heading: bytes = b"") -> bytes:
    """The text with the variables assigned by these lines, which have no end: each once, in the
    place of its first assignment or at the end of the text. None removes its assignments.

    A `heading`, a line without an end, stands above what is added, unless the text has it already.
    """
    end = b"\r\n" if b"\r\n" in before else b"\n"
    missing, kept = dict(lines), []
    for line in before.splitlines(keepends=True):
        name = assigned(line)
        if name not in lines:
            kept.append(line)
        elif (new := missing.pop(name, None)) is not None:
            kept.append(new + line[len(line.rstrip(b"\r\n")) :])
    added = [line + end for line in missing.values() if line is not None]
    if added and heading and heading not in before:
        added.insert(0, heading + end)
    if added and kept:
        if not kept[-1].endswith(b"\n"):
            kept[-1] += end
        if kept[-1].rstrip(b"\r\n").endswith(b"\\"):
            kept.append(end)  # else systemd would take the next line for the rest of that one
    return b"".join([*kept, *added])
