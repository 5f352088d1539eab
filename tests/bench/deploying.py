"""How long a deploy takes: the first, one that changes nothing, and one that changes a line."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench.baseline import first_script
from tests.bench.competitors import (
    ANSIBLE,
    BASELINE,
    OURS,
    Way,
    assert_active,
    baseline_first,
    ensure_ansible,
)
from tests.bench.figure import Effort, Figure, Goal
from tests.bench.machine import copies
from tests.bench.machines import fresh, home_for
from tests.bench.reference import take_files
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.platforms import native_platform

NO_CHANGE = f"{OURS}, no change"
Runs = dict[str, list[float]]
_MEGABYTES = (300, 301)
_ONCE = "Ansible, which takes minutes, ran once."
_NAMES = {OURS: "bench-dep-ours", ANSIBLE: "bench-dep-ansible", BASELINE: "bench-dep-baseline"}


def measure(effort: Effort) -> list[Figure]:
    """All figures, on machines that are gone afterwards.

    `quick` leaves out first deploys, Ansible and ssh.
    """
    machines = {who: VirtualPi(name, native_platform()) for who, name in _NAMES.items()}
    with tempfile.TemporaryDirectory() as place:
        try:
            return _measure(effort, machines, Path(place))
        finally:
            for machine in machines.values():
                machine.down()


def _measure(effort: Effort, machines: dict[str, VirtualPi], place: Path) -> list[Figure]:
    files = place / "files"
    figures = []
    if effort.quick:
        copies(machines[OURS].name)
    else:
        ensure_ansible()
        figures.append(_first_deploys(effort, machines, files))
    homes: dict[str, Path | None] = {"docker": None}
    if not effort.quick:  # docker is last, since there Ansible changes what it then has changed
        home = home_for(place, machines[OURS], machines[ANSIBLE])
        homes = {"ssh": home, "docker": None}
    for over, place_of_key in homes.items():
        ways = {who: Way(machines[who], place_of_key) for who in (OURS, ANSIBLE)}
        ways[OURS].ours()  # undoes a line, and over ssh notes whence it comes
        figures.append(_no_op(over, effort, ways, files))
        figures.append(_one_line(over, effort, ways, files, figures[-1].runs[OURS]))
    return figures


def _first_deploys(effort: Effort, machines: dict[str, VirtualPi], files: Path) -> Figure:
    """From machines that are new; the last of them stay."""
    runs: Runs = defaultdict(list)
    for turn in range(effort.runs):
        runs[OURS].append(Way(fresh(machines[OURS])).ours())
        assert_active(machines[OURS])
        if turn == 0:
            take_files(machines[OURS], files)
            done = Way(fresh(machines[ANSIBLE])).ansible(files, _MEGABYTES[0])
            assert_active(machines[ANSIBLE])
            runs[ANSIBLE].append(done.seconds)
        runs[BASELINE].append(baseline_first(fresh(machines[BASELINE]), first_script(files)))
        assert_active(machines[BASELINE])
        machines[BASELINE].down()
    goals = [Goal(OURS, BASELINE, 1.15)]
    return _figure("first-deploy", "First deploy, over docker", runs, goals)


def _no_op(over: str, effort: Effort, ways: dict[str, Way], files: Path) -> Figure:
    """Deploys that change nothing."""
    runs: Runs = defaultdict(list)
    for turn in range(effort.runs):
        runs[OURS].append(ways[OURS].ours())
        runs[BASELINE].append(ways[OURS].baseline())
        if turn == 0 and not effort.quick:
            done = ways[ANSIBLE].ansible(files, _MEGABYTES[0])
            assert " changed=0 " in done.stdout, done.stdout[-2000:]
            runs[ANSIBLE].append(done.seconds)
    goals = [Goal(OURS, ANSIBLE, 0.1), Goal(OURS, BASELINE, 3)]
    return _figure(f"no-op-{over}", f"Nothing to change, over {over}", runs, goals)


def _one_line(
    over: str, effort: Effort, ways: dict[str, Way], files: Path, unchanged: list[float]
) -> Figure:
    """Redis' memory, which changes with each run; Ansible's over docker alone."""
    runs: Runs = defaultdict(list, {NO_CHANGE: unchanged})
    for turn in range(effort.runs):
        runs[OURS].append(ways[OURS].ours(_MEGABYTES[turn % 2]))
        if turn == 0 and over == "docker" and not effort.quick:
            done = ways[ANSIBLE].ansible(files, _MEGABYTES[1])
            assert " changed=2 " in done.stdout, done.stdout[-2000:]  # the file, and the server
            runs[ANSIBLE].append(done.seconds)
    goals = [Goal(OURS, NO_CHANGE, 2)]
    return _figure(f"one-line-{over}", f"One line changed, over {over}", runs, goals)


def _figure(slug: str, title: str, runs: Runs, goals: list[Goal]) -> Figure:
    """With the goals of those that have run."""
    kept = [goal for goal in goals if {goal.one, goal.other} <= runs.keys()]
    return Figure(slug, title, "s", dict(runs), kept, _ONCE if ANSIBLE in runs else "")
