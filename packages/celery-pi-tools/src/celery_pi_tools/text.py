"""Managed by celery-pi. Text from outside, made safe for a terminal."""

from __future__ import annotations


def printable(text: str, lines: bool = False) -> str:
    r"""The text with each character that does not print as its escape, such as `\x1b`: what moves
    the cursor, colours, turns the direction of writing or ends a line, unless there may be several
    `lines`."""
    return "".join(
        char if char.isprintable() or (lines and char == "\n") else _escaped(char) for char in text
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()
