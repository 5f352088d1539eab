"""`make bench`: measure, section by section, and write docs/benchmarks.md and its plots."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Iterable
from importlib import import_module

from tests.bench.competitors import ansible_version
from tests.bench.figure import Effort, Figure
from tests.bench.machine import ORIGIN, copies
from tests.bench.machine import versions as of_machine
from tests.bench.report import section, write

SECTIONS = ("deploying", "tasks", "beside", "recovery", "growth")


def main() -> int:
    """Measure all and write it down, or a part and print it. 1 if a section failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    quick = "each thing once, to see that it can be measured; nothing is written"
    parser.add_argument("--quick", action="store_true", help=quick)
    only = "these sections; nothing is written"
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help=only)
    arguments = parser.parse_args()
    effort = Effort(quick=arguments.quick)
    measured = [_measure(name, effort) for name in arguments.only]
    figures = [figure for made in measured if made is not None for figure in made]
    is_whole = None not in measured  # the page of a run that failed would lack what it had
    if is_whole and not arguments.quick and arguments.only is SECTIONS:
        write(figures, _versions())
    return int(not is_whole)


def _measure(name: str, effort: Effort) -> list[Figure] | None:
    """The figures of a section, printed; None, and why, if it failed."""
    start = time.monotonic()
    try:
        figures: list[Figure] = import_module(f"tests.bench.{name}").measure(effort)
        for figure in figures:
            print(section(figure), flush=True)
        _require_runs(figures)
    except Exception:  # whatever it is: the other sections are measured all the same
        traceback.print_exc()
        figures = []
    took = f"{time.monotonic() - start:.0f} s"
    print(f"{name}: {'done' if figures else 'FAILED'} in {took}", file=sys.stderr, flush=True)
    return figures or None


def _require_runs(figures: Iterable[Figure]) -> None:
    """Refuse a figure in which a competitor has no run, or one that took no time."""
    for figure in figures:
        for name, runs in figure.runs.items():
            if not runs or min(runs) <= 0:
                raise ValueError(f"{figure.slug}: {name} has the runs {runs}")


def _versions() -> dict[str, str]:
    (pi,) = copies(ORIGIN)
    try:
        return of_machine(pi) | {"ansible-core": ansible_version()}
    finally:
        pi.down()


if __name__ == "__main__":
    sys.exit(main())
