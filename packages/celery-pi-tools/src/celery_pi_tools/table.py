"""Managed by celery-pi. Results for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby

from celery_pi_tools.checks.registry import Row
from celery_pi_tools.text import printable

LONGEST = 2000  # characters of a text; whoever wrote it may have written a million
SHOWN = 3  # of many
MARKS = {"ok": "", "warn": "warn", "wrong": "WRONG"}
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def size(number: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def age(seconds: float) -> str:
    """A span of time in its largest unit and the next: `2 h 5 min`."""
    left = max(0, int(seconds))
    for place, (length, unit) in enumerate(UNITS):
        if left >= length:
            whole, rest = divmod(left, length)
            below = f" {rest // UNITS[place + 1][0]} {UNITS[place + 1][1]}" if unit != "s" else ""
            return f"{whole} {unit}" + ("" if below.startswith(" 0 ") else below)
    return "0 s"


def percent(part: float, whole: float) -> int:
    return int(100 * part / whole) if whole else 0


def count(number: int, one: str, many: str = "") -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def line(text: str) -> str:
    """Any text as one printable line."""
    return printable(text[:LONGEST]) + (" …" if len(text) > LONGEST else "")


def few(texts: Sequence[str]) -> str:
    """The first few of the texts, and the number of the others."""
    more = f" and {count(len(texts) - SHOWN, 'other')}" if len(texts) > SHOWN else ""
    return f"{', '.join(texts[:SHOWN])}{more}"


def as_table(rows: Sequence[Row]) -> str:
    """A line for each result; below one that is not ok its remedy, unless it is the last one's."""
    last_remedy = ""
    width = max((len(line(row.name)) for row in rows), default=0)
    lines = []
    for section, group in groupby(rows, key=lambda row: row.section):
        lines.append(line(section))
        for row in group:
            mark = MARKS[row.finding.level]
            lines.append(f"  {mark:<5}  {line(row.name):<{width}}  {line(row.finding.evidence)}")
            if row.finding.remedy not in ("", last_remedy):
                lines.append(f"  {'':<5}  {'':<{width}}  -> {line(row.finding.remedy)}")
            last_remedy = row.finding.remedy
    return "\n".join([*lines, verdict(rows)])


def verdict(rows: Sequence[Row]) -> str:
    """A summary in one line."""
    names_by_state = {
        state: [line(row.name) for row in rows if row.finding.level == state]
        for state in ("wrong", "warn")
    }
    parts = [
        f"{len(names)} {state} ({', '.join(names)})"
        for state, names in names_by_state.items()
        if names
    ]
    return "; ".join(parts) or "all is well"


def as_json(command: str, rows: Sequence[Row]) -> str:
    """The same for programs."""
    checks = [
        {
            **{"section": row.section, "name": row.name, "state": row.finding.level},
            **{"evidence": row.finding.evidence, "remedy": row.finding.remedy},
            "values": dict(row.finding.values),
        }
        for row in rows
    ]
    well = all(row.finding.level != "wrong" for row in rows)
    return json.dumps({"command": command, "well": well, "checks": checks}, indent=2)
