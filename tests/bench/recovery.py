"""How soon tasks run again after what ends a machine, a worker, or Redis."""

from __future__ import annotations

from tests.bench.boot import boots
from tests.bench.figure import Effort, Figure, Goal
from tests.bench.machine import copies, remove
from tests.bench.marks import first, hold, letting_go, send, strike, when
from tests.faults.site import Site, guides, ours
from tests.helpers.harness import wait_for

_LIMIT = 5.0  # seconds in which a task of a killed worker is to run again
_VISIBILITY = 3600.0  # seconds for which kombu gives nobody else a task that somebody has
_PATIENCE = 20  # seconds to see that the guide's does not come back; its worker does after 10
_KILLED = """From SIGKILL of the main process of a worker to the second start of the task that it
had. The guide's is not measured: its task was not back 20 s after, and comes back when
kombu's visibility timeout is over, no sooner than the hour that stands here."""
_RESTARTED = """From `systemctl restart` of Redis, the restart itself included, to the start of a
task that is in the queue as soon as Redis answers. Our worker tries to connect 1 s after it lost
the connection. The guide's, which is Celery as it comes, does 2 s after, and then asks other
workers and waits 1 s for answers (mingle)."""


def measure(effort: Effort) -> list[Figure]:
    """Both configurations on one machine, in turns."""
    pis = copies("bench-back-site")
    try:
        (pi,) = pis
        sites = {"celery-pi": ours(pi), "guide": guides(pi)}
        pi.run("systemctl", "stop", "celery-beat")
        for site in sites.values():
            wait_for("the worker consumes", site.ready)
        return [_killed(sites, effort), _restarted(sites, effort), boots(sites, effort)]
    finally:
        remove(pis)


def _killed(sites: dict[str, Site], effort: Effort) -> Figure:
    if not effort.quick:
        _require_absence(sites["guide"])
    mine = [_back(sites["celery-pi"], f"kill-{n}.marks", 60) for n in range(effort.runs)]
    runs = {
        "celery-pi": [seconds for seconds in mine if seconds is not None],
        "limit": [_LIMIT],
        "guide (computed)": [_VISIBILITY],
    }
    assert len(runs["celery-pi"]) == effort.runs, "a task of a killed worker did not come back"
    title = "From a killed worker to its task running again"
    goal = Goal("celery-pi", "limit", 1)
    return Figure("recovery-killed-worker", title, "s", runs, [goal], _KILLED)


def _require_absence(site: Site) -> None:
    """Refuse a site whose task is back so soon that it can be measured."""
    seconds = _back(site, "kill.marks", _PATIENCE)
    if seconds is not None:
        raise AssertionError(f"the guide's task was back after {seconds} s: measure it too")
    site.renew()


def _back(site: Site, name: str, patience: float) -> float | None:
    """Seconds until the task of a worker that is killed runs again, if it does in time."""
    send(site, name, 2)
    first(site, name)
    killed = strike(site, f"systemctl kill --kill-whom=main --signal=KILL {site.worker}")
    try:
        wait_for("the task runs again", lambda: when(site, name)[1:], patience)
    except AssertionError:
        return None
    first(site, name, "end")
    wait_for("nothing is with the broker", lambda: site.waiting() == set())
    return when(site, name)[1] - killed


def _restarted(sites: dict[str, Site], effort: Effort) -> Figure:
    runs: dict[str, list[float]] = {name: [] for name in sites}
    for site in sites.values():
        hold(site, f"redis-{site.worker}.marks", effort.runs)
    for _ in range(effort.runs):
        for name, site in sites.items():
            runs[name].append(_consumes_again(site))
    title = "From a restart of Redis to the next task"
    return Figure("recovery-redis", title, "s", runs, note=_RESTARTED)


def _consumes_again(site: Site) -> float:
    """Seconds from the restart of Redis to the start of one of the tasks that are held."""
    name = f"redis-{site.worker}.marks"
    before = len(when(site, name))
    restarted = strike(site, f"systemctl restart {site.redis} && {letting_go(site)}")
    wait_for("the task runs", lambda: when(site, name)[before:], 60)
    wait_for("nothing is with the broker", lambda: site.waiting() == set())
    return when(site, name)[before] - restarted
