"""What was measured: runs of each competitor, and what their medians are to be to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Goal:
    """`one` is to be at most (or at least) so many times `other`; both are names of runs."""

    one: str
    other: str
    times: float
    at_least: bool = False


@dataclass(frozen=True)
class Figure:
    """One quantity: a table, a plot and a file name.

    `runs` has, by competitor, what each run gave, in `unit`. The runs of all competitors
    alternated, so that whatever the machine did meanwhile was done to all of them.
    """

    slug: str
    title: str
    unit: str
    runs: dict[str, list[float]]
    goals: list[Goal] = field(default_factory=list)
    note: str = ""

    def median(self, name: str) -> float:
        return median(self.runs[name])

    def ratio(self, goal: Goal) -> float:
        """What came of the goal: how many times the other the one was."""
        return self.median(goal.one) / self.median(goal.other)

    def is_reached(self, goal: Goal) -> bool:
        ratio = self.ratio(goal)
        return ratio >= goal.times if goal.at_least else ratio <= goal.times


@dataclass(frozen=True)
class Effort:
    """How much is measured: `runs` of each competitor; `quick` is to see that it works at all."""

    quick: bool = False

    @property
    def runs(self) -> int:
        return 1 if self.quick else 5
