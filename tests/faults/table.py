"""The tables in docs/faults.md."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.faults.count import Toll
from tests.faults.scenarios import SCENARIOS
from tests.helpers.harness import ROOT

Tolls = dict[str, Toll]
_HEAD = (
    "fault",
    *("lost", "late", "done twice", "begun again", "begun again after", "all done after"),
)


def write(ours: Tolls, guide: Tolls) -> None:
    """Put the figures between the marker comments of the page."""
    for name, tolls in (("ours", ours), ("guide", guide)):
        replace("docs/faults.md", name, _table(_HEAD, map(_full, tolls.values())))


def _full(toll: Toll) -> list[str]:
    sets = (toll.lost, toll.late, toll.twice, toll.interrupted)
    return [*(str(len(tasks)) for tasks in sets), _after(toll.redelivery), _after(toll.done)]


def _after(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.1f} s"  # noqa: RUF001


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    named = zip((scenario.fault for scenario in SCENARIOS.values()), rows, strict=True)
    lines = [head, ["---"] * len(list(head)), *([fault, *row] for fault, row in named)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replace(file: str, name: str, table: str) -> None:
    """Put the table between the marker comments of that name."""
    path = ROOT / file
    marked = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->\n)", re.DOTALL)
    text, found = marked.subn(rf"\g<1>{table}\g<2>", path.read_text())
    if not found:
        raise ValueError(f"{file} has no place for the table {name!r}")
    path.write_text(text)
