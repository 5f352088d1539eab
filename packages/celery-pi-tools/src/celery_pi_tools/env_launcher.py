"""Managed by celery-pi. Runs a program with the variables of a file: with-env-file FILE PROGRAM...

systemd's own EnvironmentFile= is read by PID 1 as root. Whoever may write the file's directory
could make it a link, which shows a file of root's to the service, or a FIFO, which blocks PID 1.
Here the service's own user reads it, and only a regular file. The syntax is systemd's
(systemd.exec(5)). Exit status: the program's, or 1 and one sentence.
"""

from __future__ import annotations

import os
import re
import stat
import sys

LARGEST = 2**20  # bytes
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
BLANKS, ENDS = " \t\r\n", "\r\n"
ESCAPED_IN_QUOTES = '"\\`$'


class Unfit(Exception):
    """Why the file cannot be used; no value is in it."""


def read(path: str) -> str:
    """Text of the file. Raises Unfit."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise Unfit(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Unfit(f"{path} is no regular file")
    with os.fdopen(fd, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Unfit(f"{path} is larger than {LARGEST} bytes")
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise Unfit(f"{path} is not UTF-8 in line {number}") from None
        if "\0" in text:
            raise Unfit(f"{path} has a zero byte in line {number}")
    return content.decode()


def variables(text: str) -> dict[str, str]:
    """Value of each variable; the last assignment counts, other lines are ignored."""
    values: dict[str, str] = {}
    at = 0
    while at < len(text):
        if text[at] in BLANKS:
            at += 1
        elif text[at] in "#;":
            at = end_of_line(text, at)
        else:
            end = end_of_line(text, at)
            equals = text.find("=", at, end)
            if equals < 0:
                at = end
                continue
            name = text[at:equals].rstrip(BLANKS)
            value, at = parsed(text, equals + 1)
            if NAME.fullmatch(name):
                values[name] = value
    return values


def end_of_line(text: str, at: int) -> int:
    ends = (place for place in (text.find(end, at) for end in ENDS) if place >= 0)
    return min(ends, default=len(text))


def parsed(text: str, at: int) -> tuple[str, int]:
    """The value that begins there, and where the next line does.

    Quotes count where a value or what follows a quoted part begins; blanks behind what is not
    quoted do not.
    """
    value, kept, fresh = "", 0, True  # up to `kept` it stays whatever follows
    while at < len(text) and text[at] not in ENDS:
        char = text[at]
        if fresh and char in "'\"":
            quoted, at = in_quotes(text, at)
            value += quoted
            kept = len(value)
        elif char == "\\":
            value += text[at + 1 : at + 2].strip(ENDS)
            kept, fresh = len(value), False
            at += 2
        elif fresh and char in BLANKS:
            at += 1
        else:
            value, fresh = value + char, False
            kept = kept if char in BLANKS else len(value)
            at += 1
    return value[:kept], at


def in_quotes(text: str, at: int) -> tuple[str, int]:
    """What stands in the quotes that begin there, and where they end; the file's end ends them."""
    quote, value = text[at], ""
    at += 1
    while at < len(text) and text[at] != quote:
        if quote == '"' and text[at] == "\\" and at + 1 < len(text):
            after = text[at + 1]
            value += "" if after == "\n" else after if after in ESCAPED_IN_QUOTES else f"\\{after}"
            at += 2
        else:
            value += text[at]
            at += 1
    return value, at + 1


def main(arguments: list[str]) -> None:
    path, *command = arguments
    try:
        os.environ.update(variables(read(path)))
        os.execv(command[0], command)  # noqa: S606
    except Unfit as error:
        sys.exit(f"celery-pi: {error}")
    except OSError as error:
        sys.exit(f"celery-pi: {command[0]} cannot be run: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
