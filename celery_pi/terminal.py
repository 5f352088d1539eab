"""What a Pi says, on the terminal of who deploys: nothing in it is a command there.

A Pi may be in other hands, and what runs on it prints what others have written. Whatever pyinfra is
going to show comes by here: lines of output, facts that failed, diffs, the names in records.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import click
from pyinfra.api.output import is_output_active, set_echo

KEPT = "\n\t"  # a line more, and a wider gap, are all that these do
COLOUR = re.compile("(\x1b\\[(?:0|1|[39][0-7])m)")  # bold, a colour, and their end: pyinfra's own


def printable(text: str, kept: str = KEPT) -> str:
    r"""The text with each character that does not print as its escape, such as `\x1b`: what moves
    the cursor, colours, or turns the direction of writing."""
    return "".join(
        char
        if char.isprintable() or char in kept
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def shown(text: str) -> str:
    """The same with the colours that pyinfra gives it."""
    parts = COLOUR.split(text)
    parts[::2] = map(printable, parts[::2])
    return "".join(parts)


class Printable(logging.Filter):
    """Lets all pass, as what can be shown."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str):
            record.msg, record.args = shown(record.getMessage()), None
        return True


def echo(message: Any = None, **how: Any) -> None:
    """click's, of text that can be shown."""
    click.echo(shown(message) if isinstance(message, str) else message, **how)


def protect() -> None:
    """From here on, pyinfra shows nothing as it came. Without its command line it shows nothing."""
    if is_output_active():
        set_echo(echo)
        logger = logging.getLogger("pyinfra")
        if not any(isinstance(known, Printable) for known in logger.filters):
            logger.addFilter(Printable())
