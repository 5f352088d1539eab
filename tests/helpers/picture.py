"""Text as SVG: `celery-pi status | python -m tests.helpers.picture >docs/pictures/status.svg`."""

from __future__ import annotations

import sys
from html import escape

_CHARACTER, _LINE, _MARGIN = 7.83, 18, 16  # pixels; at 13 px a monospaced letter is 0.6 em wide
_COLOURS = {"warn": "#d29922", "WRONG": "#f85149"}


def picture(text: str) -> str:
    """The text as SVG, on a dark ground; sections are bold, `warn` and `WRONG` coloured."""
    lines = text.splitlines()
    width = round(max(map(len, lines)) * _CHARACTER) + 2 * _MARGIN
    height = len(lines) * _LINE + 2 * _MARGIN
    rows = "\n".join(_row(number, line) for number, line in enumerate(lines, 1) if line)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
<g font-family="ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="13" \
fill="#c9d1d9">
{rows}
</g>
</svg>
"""


def _row(number: int, line: str) -> str:
    mark = line.split()[0] if line.split() else ""
    style = ' font-weight="bold"' if not line.startswith(" ") else ""
    if mark in _COLOURS:
        style = f' fill="{_COLOURS[mark]}"'
    y = number * _LINE + _MARGIN - 4
    # Both keep the columns: a viewer may have a font of another width, and join spaces.
    length = f' textLength="{len(line) * _CHARACTER:.0f}"'
    shown = escape(line).replace(" ", "\N{NO-BREAK SPACE}")
    return f'<text x="{_MARGIN}" y="{y}"{length}{style}>{shown}</text>'


if __name__ == "__main__":
    sys.stdout.write(picture(sys.stdin.read()))
