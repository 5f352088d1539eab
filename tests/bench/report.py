"""docs/benchmarks.md, and a plot beside it for each figure."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.bench.figure import Figure, Goal
from tests.bench.plot import draw, number
from tests.helpers.harness import ROOT

_HEAD = """# Benchmarks

Made by `make bench` on {date}, on {machine}. {versions}

The runs of the competitors of a figure alternated, so what the machine did meanwhile was done to
all of them. Ratios therefore hold better than seconds, and stand first: they are of medians, to the
first competitor's. The plots show medians as bars, single runs as dots.
"""


def write(
    figures: Iterable[Figure], versions: Mapping[str, str], docs: Path = ROOT / "docs"
) -> None:
    """Write the page and the plots. Those of figures that are no more are removed."""
    figures = list(figures)
    plots = docs / "benchmarks"
    plots.mkdir(exist_ok=True)
    for stale in set(plots.glob("*.svg")) - {plots / f"{figure.slug}.svg" for figure in figures}:
        stale.unlink()
    for figure in figures:
        (plots / f"{figure.slug}.svg").write_text(draw(figure))
    (docs / "benchmarks.md").write_text(page(figures, versions))


def page(figures: Iterable[Figure], versions: Mapping[str, str]) -> str:
    """The page as Markdown."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = _HEAD.format(
        date=datetime.datetime.now(tz=datetime.UTC).date(),
        machine=_machine(),
        versions=f"Versions: {named}." if named else "",
    )
    return "\n".join([head, *(section(figure) for figure in figures)])


def section(figure: Figure) -> str:
    """One figure: its table, its plot, its note, and what became of its goals."""
    rows = [_row(figure, name) for name in figure.runs]
    head = ("", "ratio", f"median ({figure.unit})", "smallest–largest", "runs")  # noqa: RUF001
    parts = [
        f"## {figure.title}",
        _table(head, rows),
        f"![{figure.title}](benchmarks/{figure.slug}.svg)",
        figure.note,
    ]
    if figure.goals:
        wanted = ("wanted", "measured", "reached")
        parts.append(_table(wanted, (_verdict(figure, goal) for goal in figure.goals)))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _row(figure: Figure, name: str) -> list[str]:
    runs, middle = figure.runs[name], figure.median(name)
    ratio = middle / figure.median(next(iter(figure.runs)))
    spread = f"{number(min(runs))}–{number(max(runs))}"  # noqa: RUF001
    return [name, number(ratio), number(middle), spread, str(len(runs))]


def _verdict(figure: Figure, goal: Goal) -> list[str]:
    bound = "at least" if goal.at_least else "at most"
    wanted = f"{goal.one} {bound} {goal.times:g} x {goal.other}"
    reached = "yes" if figure.is_reached(goal) else "**no**"
    return [wanted, f"{number(figure.ratio(goal))} x", reached]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine() -> str:
    """Cores, processor and platform of this host."""
    cpus = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Model)\s*: (.*)$", cpus, re.MULTILINE)
    processor = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores ({processor}), {platform.system()} {platform.machine()}"
