"""Output of a Pi on the terminal of whoever deploys: control characters are escaped.

A Pi may be in other hands, and its programs print what others have written. All that pyinfra shows
passes through here: lines of output, facts that failed, diffs, the names in records.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import click
from pyinfra.api.output import is_output_active, set_echo

KEPT = "\n\t"  # harmless control characters
COLOUR = re.compile("(\x1b\\[(?:0|1|[39][0-7])m)")  # pyinfra's own: bold, a colour, and reset


def printable(text: str, kept: str = KEPT) -> str:
    r"""The text with each character that is not printable as its escape, such as `\x1b`: those that
    move the cursor, set colours, or turn the direction of writing."""
    return "".join(
        char
        if char.isprintable() or char in kept
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def shown(text: str) -> str:
    """The same, but with pyinfra's colours."""
    parts = COLOUR.split(text)
    parts[::2] = map(printable, parts[::2])
    return "".join(parts)


class Printable(logging.Filter):
    """Passes every record, made printable."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str):
            record.msg, record.args = shown(record.getMessage()), None
        return True


def echo(message: Any = None, **options: Any) -> None:
    """click's `echo`, of printable text."""
    click.echo(shown(message) if isinstance(message, str) else message, **options)


def protect() -> None:
    """Have pyinfra's command line show printable text only."""
    if is_output_active():
        set_echo(echo)
        logger = logging.getLogger("pyinfra")
        if not any(isinstance(each, Printable) for each in logger.filters):
            logger.addFilter(Printable())
