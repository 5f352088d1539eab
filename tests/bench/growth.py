"""What becomes of it with more hosts, more workers, and more tasks."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench.figure import Effort, Figure, Goal
from tests.bench.machine import copies, remove
from tests.bench.queued import lengths
from tests.bench.workers import throughput
from tests.faults.site import ours
from tests.helpers.harness import PYINFRA, run, wait_for
from tests.virtual_pi import VirtualPi

_HOSTS = (1, 2, 4)
_NOTE = """One run of pyinfra in which nothing changes, with so many machines at once; all of them
are on this host, whose cores they share with pyinfra."""


def measure(effort: Effort) -> list[Figure]:
    """Deploys to several machines, and then one of them alone under load."""
    count = 2 if effort.quick else _HOSTS[-1]
    pis = copies(*(f"bench-back-{n}" for n in range(1, count + 1)))
    try:
        deploys = _deploys(pis, effort)
        remove(pis[1:])
        site = ours(pis[0])
        site.ctl("stop", "celery-beat")
        wait_for("the worker consumes", site.ready)
        costs = lengths(site, effort)  # first: results of the other's tasks take memory, too
        return [deploys, *costs, throughput(site, effort)]
    finally:
        remove(pis)


def _deploys(pis: list[VirtualPi], effort: Effort) -> Figure:
    """Seconds of a run that changes nothing, by the number of its hosts."""
    groups = {_name(count): pis[:count] for count in _HOSTS if count <= len(pis)}
    runs: dict[str, list[float]] = {name: [] for name in groups}
    with tempfile.TemporaryDirectory() as directory:
        if not effort.quick:
            _deploy(pis, Path(directory))  # once for nothing: what they asked last is then known
        for _ in range(effort.runs):
            for name, hosts in groups.items():
                runs[name].append(_deploy(hosts, Path(directory)))
    goal = Goal(_name(len(pis)), _name(1), len(pis))  # not worse than one after the other
    title = "A deploy that changes nothing, by hosts"
    return Figure("growth-hosts", title, "s", runs, [goal], _NOTE)


def _name(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"


def _deploy(pis: list[VirtualPi], directory: Path) -> float:
    """Seconds of one run with these machines, in which nothing may change."""
    inventory = directory / "inventory.py"
    inventory.write_text(f"pis = {[f'@docker/{pi.name}' for pi in pis]!r}\n")
    outcome = run(PYINFRA, "--json", "-y", inventory, "deploy.py")
    if outcome.status:
        raise AssertionError(outcome.output)
    assert not outcome.changed, outcome.changed
    return outcome.seconds
