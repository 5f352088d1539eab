"""How many tasks a second several workers do that share one broker, and one machine."""

from __future__ import annotations

import re

from tests.bench.figure import Effort, Figure
from tests.bench.marks import MEDIA, strike, when
from tests.bench.queue_fill import fill
from tests.faults.site import UNITS, Site

_COUNTS = (1, 2, 4)
_EXTRA = "bench-worker-*"  # those of them that are there
_NOTE = """{tasks} tasks that write two lines each, queued at once; two processes to a worker. All
workers, Redis and Flower share the cores of this one host: this shows what several workers cost
each other there, not what a second machine would bring."""


def throughput(site: Site, effort: Effort) -> Figure:
    """Tasks a second of one worker, and with more beside it."""
    tasks = 100 if effort.quick else 1_000
    counts = _COUNTS[:2] if effort.quick else _COUNTS
    runs: dict[str, list[float]] = {_name(count): [] for count in counts}
    for turn in range(effort.runs):
        files = {count: f"rate-{turn}-{count}.marks" for count in counts}
        site.ctl("stop", site.worker, _EXTRA)
        for file in files.values():
            fill(site, f"mark.delay({file!r}, 0)", tasks, file)  # not yet where workers look
        for count, file in files.items():
            _start(site, count)
            runs[_name(count)].append(_rate(site, file, tasks))
    site.ctl("stop", _EXTRA)
    note = _NOTE.format(tasks=f"{tasks:,}")
    return Figure("growth-workers", "Tasks a second, by workers", "1/s", runs, note=note)


def _name(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _more(count: int) -> list[str]:
    """The units beside the first."""
    return [f"bench-worker-{n}" for n in range(2, count + 1)]


def _start(site: Site, count: int) -> None:
    """Start as many more workers, which differ from the first in their names alone."""
    original = f"{UNITS}/{site.worker}.service"
    for unit in _more(count):
        written = re.sub(r"--hostname=\S+", "", site.pi.run("cat", original).stdout)
        written = written.replace(" worker ", f" worker --hostname={unit}@%H ", 1)
        sandbox = f"cp -rT {original}.d {UNITS}/{unit}.service.d"
        path = f"{UNITS}/{unit}.service"
        site.pi.run("sh", "-c", f"{sandbox} && cat >{path}", input=written.encode())
    site.ctl("daemon-reload")
    site.ctl("start", site.worker, *_more(count))  # returns when they consume


def _rate(site: Site, name: str, tasks: int) -> float:
    """Tasks a second, from the moment at which all are in the queue to the end of the last."""
    file = f"{MEDIA}/{name}"
    enough = f'[ "$(cat {file} 2>/dev/null | wc -l)" -ge {2 * tasks} ]'  # two lines for each
    begun = strike(site, f"{' '.join(site.cli)} rename {name} celery")
    site.pi.run("timeout", "120", "sh", "-c", f"until {enough}; do sleep 0.2; done")
    return tasks / (max(when(site, name, "end")) - begun)
