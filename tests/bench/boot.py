"""How long it takes from the start of a machine to the end of a task that waits there."""

from __future__ import annotations

import re
from datetime import datetime

from tests.bench.figure import Effort, Figure, Goal
from tests.bench.marks import first, send
from tests.faults.site import Site
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.engine import connect

_UNITS = {
    "celery-worker": (
        *("redis-server", "redis-memory"),
        *("celery-worker", "celery-beat", "celery-flower"),
    ),
    "guide-worker": ("guide-redis", "guide-worker"),
}
_NOTE = """From the start of the container to the end of a task that was in the queue before.
`units`, of the same boots, is what systemd says that its own way to `redis-server` takes, and then
the starts of `redis-server` and `celery-worker`. The rest of the machine boots with both; the guide
has neither Beat nor Flower, which share the cores with ours."""


def boots(sites: dict[str, Site], effort: Effort) -> Figure:
    """Boot with one of the sites at a time; beside it, what ours needs at least."""
    sites = {"celery-pi": sites["celery-pi"]} if effort.quick else sites
    runs: dict[str, list[float]] = {name: [] for name in (*sites, "units")}
    for n in range(effort.runs):
        for name, site in sites.items():
            runs[name].append(_boot(site, f"boot-{site.worker}-{n}.marks"))
            if name == "celery-pi":
                runs["units"].append(_needed(site.pi))
    goal = Goal("celery-pi", "units", 1.2)
    return Figure("recovery-boot", "From boot to the first task done", "s", runs, [goal], _NOTE)


def _boot(site: Site, name: str) -> float:
    """Seconds to the end of a task that waits in the queue of this site, alone on the machine."""
    others = [unit for key, units in _UNITS.items() if key != site.worker for unit in units]
    site.ctl("--quiet", "disable", *others)
    site.ctl("--quiet", "enable", *_UNITS[site.worker])
    site.ctl("start", site.redis)
    site.ctl("stop", "celery-beat", site.worker)
    send(site, name, 0)
    container = connect().containers.get(site.pi.name)
    container.restart(timeout=60)
    done = first(site, name, "end", 60)
    site.pi.up()
    container.reload()
    return done - _time(container.attrs["State"]["StartedAt"])


def _time(written: str) -> float:
    """Docker writes nanoseconds, of which Python reads no more than six digits."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z", r"\1+00:00", written)).timestamp()


def _needed(pi: VirtualPi) -> float:
    """Seconds of the way through systemd: up to Redis, Redis' start, and the worker's."""
    begun = _moments(pi)["UserspaceTimestampMonotonic"]
    redis, worker = _moments(pi, "redis-server"), _moments(pi, "celery-worker")
    starts = (unit["ActiveEnterTimestampMonotonic"] for unit in (redis, worker))
    asleep = [unit["InactiveExitTimestampMonotonic"] for unit in (redis, worker)]
    return asleep[0] - begun + sum(starts) - sum(asleep)


def _moments(pi: VirtualPi, *unit: str) -> dict[str, float]:
    """Seconds of the clock that runs on, by systemd's names; of systemd itself without a unit."""
    shown = pi.run("systemctl", "show", *unit).stdout.splitlines()
    pairs = (line.split("=", 1) for line in shown if "TimestampMonotonic=" in line)
    return {key: int(value) / 1e6 for key, value in pairs}
