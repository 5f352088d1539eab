"""Make a fault while tasks run, and count what became of them."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

from tests.faults.scenarios import Scenario
from tests.faults.site import Site
from tests.helpers.harness import APP, wait_for

TASKS = 200
LONG = 180  # what is given back goes behind all that wait, and to wait there is no redelivery
LATER = range(10, TASKS, 20)  # these have a countdown: the worker holds them meanwhile
LIMIT = 60  # seconds; what is not back by then waits for the visibility timeout, an hour
SILENCE = 12  # seconds without a mark; the longest task is shorter, the guide's restart too
MEDIA = f"{APP}/media"

# What is printed is accepted: Redis has answered.
_SEND = """
from observations_nids.tasks import mark, poison, stall
for n in range({tasks}):
    if n == {long} + 1:
        {intruder}
    seconds = {seconds} if n == {long} else (5 + 7 * n % 46) / 1000
    print(mark.apply_async(({name!r}, seconds), countdown=6 if n in {later} else None).id)
"""


@dataclass(frozen=True)
class Toll:
    """What became of the tasks, by their ids; times are seconds after the fault."""

    accepted: list[str]
    starts: dict[str, list[float]]
    ends: dict[str, list[float]]
    waiting: set[str]

    def __str__(self) -> str:
        return (
            f"{len(self.accepted)} accepted, {len(self.lost)} lost, {len(self.late)} late, "
            f"{len(self.twice)} done twice, {len(self.interrupted)} begun again, the last after "
            f"{self.redelivery} s, all done after {self.done} s"
        )

    @property
    def lost(self) -> set[str]:
        """Neither done nor with the broker."""
        return {task for task in self.accepted if task not in self.ends} - self.waiting

    @property
    def late(self) -> set[str]:
        """Not done in time; the broker still has them."""
        return {task for task in self.accepted if task not in self.ends} & self.waiting

    @property
    def interrupted(self) -> set[str]:
        """Begun more than once: what was under way is begun again, and cannot be otherwise."""
        return {task for task in self.accepted if len(self.starts.get(task, ())) > 1}

    @property
    def twice(self) -> set[str]:
        """Done more than once, or done and still with the broker, which gives them out again."""
        return {
            task
            for task in self.accepted
            if len(self.ends.get(task, ())) > 1 or task in self.ends.keys() & self.waiting
        }

    @property
    def redelivery(self) -> float | None:
        """When the last of the interrupted tasks was begun again."""
        again = [self.starts[task][1] for task in self.interrupted]
        return round(max(again), 1) if again else None

    @property
    def done(self) -> float | None:
        """When all were done; None if they were not."""
        if self.lost or self.late:
            return None
        return round(max(self.ends[task][0] for task in self.accepted), 1)


def count(site: Site, scenario: Scenario, limit: float = LIMIT) -> Toll:
    """Make the fault in the midst of 200 tasks; wait, at most that long, until all are settled.

    Leaves one worker and an empty broker.
    """
    site.pi.run("sh", "-c", f"rm -f {MEDIA}/*.marks {MEDIA}/stalled")
    try:
        if scenario.workers > 1:
            site.start_second()
        return _count(site, scenario, limit)
    finally:
        if scenario.workers > 1 or site.waiting() != set():
            site.renew()


def _count(site: Site, scenario: Scenario, limit: float) -> Toll:
    name = f"{time.time():.0f}.marks"
    accepted = _send(site, name, scenario)
    # A worker that hangs may have the long task in hand and begin it when it is back, or never.
    child = wait_for(
        "the tasks are under way",
        lambda: _under_way(site, name, accepted[LONG]) or _hung(site, limit),
        limit + 30,
    )
    fault = _stalled(site) or time.time()
    scenario.strike(site, child)
    limit = max(limit, scenario.seconds + 20, scenario.back + 30)
    waiting = _settled(site, name, set(accepted), limit)
    marks = _marks(site, name)
    starts, ends = (
        _times([mark for mark in marks if mark[1] == event], fault) for event in ("start", "end")
    )
    return Toll(accepted, starts, ends, waiting)


def _send(site: Site, name: str, scenario: Scenario) -> list[str]:
    values = {"seconds": scenario.seconds, "intruder": scenario.intruder, "later": LATER}
    return site.in_app(_SEND.format(tasks=TASKS, long=LONG, name=name, **values)).split()


def _marks(site: Site, name: str) -> list[list[str]]:
    shown = site.pi.run("cat", f"{MEDIA}/{name}", check=False).stdout
    return [line.split() for line in shown.splitlines()]


def _under_way(site: Site, name: str, long: str) -> str | None:
    """The process of the long task, once it runs."""
    processes = [process for task, _, _, process in _marks(site, name) if task == long]
    return processes[0] if processes else None


def _stalled(site: Site) -> float | None:
    """When the worker has stopped at the arrival of a task, if it has."""
    shown = site.pi.run("stat", "-c", "%.3Y", f"{MEDIA}/stalled", check=False).stdout
    return float(shown) if shown else None


def _hung(site: Site, limit: float) -> str | None:
    """A word if the worker has been stopped for so long that it will not come back by itself."""
    since = _stalled(site)
    return "nobody's" if since and time.time() - since > limit else None


def _settled(site: Site, name: str, accepted: set[str], limit: float) -> set[str]:
    """What the broker still has when nothing more is to come, or the time is up."""
    deadline = time.time() + limit
    while True:
        waiting, marks = site.waiting(), _marks(site, name)
        if waiting == set():
            ended = {task for task, event, *_ in marks if event == "end"}
            if ended >= accepted or time.time() - float(marks[-1][2]) > SILENCE:
                return waiting
        if time.time() > deadline:
            return waiting or set()
        time.sleep(0.3)


def _times(marks: list[list[str]], fault: float) -> dict[str, list[float]]:
    times = defaultdict(list)
    for task, _, when, _ in marks:
        times[task].append(float(when) - fault)
    return dict(times)
