"""Running tasks: our worker, the guide's, and two bare processes, on one machine, in turn."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from tests.bench.figure import Effort, Figure, Goal
from tests.bench.machine import copies
from tests.faults.site import UNITS, Site, guides, ours
from tests.helpers.harness import APP, deploy, wait_for
from tests.virtual_pi import VirtualPi

HERE = Path(__file__).parent
LOAD = "/root/bench-load.py"
OURS, GUIDE, BARE = "celery-pi", "guide", "bare Redis, two processes"
GUIDE_KEPT = "guide, results kept"
RUNNING = {
    OURS: ("redis-server", "redis-memory", "celery-worker"),
    GUIDE: ("guide-redis", "guide-worker"),
}
BESIDE = {
    OURS: ("celery-beat", "celery-flower", "nginx"),
    GUIDE: ("guide-beat", "guide-flower", "nginx"),
}
LARGEST_TASKS = 2000
KINDS = ("kept", "ignored")
Runs = dict[str, dict[str, list[float]]]


def measure(effort: Effort) -> list[Figure]:
    """Throughput, cost and memory with Flower watching, then all of it without Flower."""
    (pi,) = copies("bench-tasks")
    sites = {OURS: ours(pi), GUIDE: _guides(pi)}
    pi.run("sh", "-c", f"cat >{LOAD}", input=(HERE / "load.py").read_bytes())
    runs: Runs = defaultdict(lambda: defaultdict(list))
    for _ in range(effort.runs):
        for name, site in sites.items():
            _watched(name, site, runs, effort)
    _without_flower(pi)
    pi.run("systemctl", "stop", "celery-beat")
    for _ in range(effort.runs):
        for name, site in sites.items():
            _alone(name, site, runs, effort)
        _bare(sites[OURS], runs, effort)
    pi.down()
    return _figures(runs)


def _guides(pi: VirtualPi) -> Site:
    """The guide's, which writes its log to a file, and has Flower and Beat beside the worker."""
    site = guides(pi)
    pi.put(HERE / "guide", UNITS)
    log = f"s|--loglevel=info|& --logfile={APP}/logs/guide.log|"
    pi.run("sed", "-i", log, f"{UNITS}/guide-worker.service")
    pi.run("systemctl", "daemon-reload")
    return replace(site, second="guide-b")


def _without_flower(pi: VirtualPi) -> None:
    """Deploy without Flower; the guide's units, which would be taken for the owner's, are away."""
    away = "/root/bench-guide"
    pi.run("systemctl", "stop", "guide-*")
    pi.run("sh", "-c", f"mkdir {away} && mv {UNITS}/guide-* {away} && systemctl daemon-reload")
    deployed = deploy(pi, flower=False)
    assert deployed.status == 0, deployed.output
    pi.run("sh", "-c", f"mv {away}/guide-* {UNITS} && systemctl daemon-reload")


def _watched(name: str, site: Site, runs: Runs, effort: Effort) -> None:
    """With Flower and Beat; the memory is that of everything."""
    _only(site, name, BESIDE[name])
    runs["watched"][name].append(_flow(site, name, "kept", effort)["rate"])
    runs["everything"][name].append(_load(site, name, BESIDE[name], "memory")["memory"])


def _alone(name: str, site: Site, runs: Runs, effort: Effort) -> None:
    for kind in KINDS[: 1 if effort.quick else None]:
        _only(site, name)
        told = _flow(site, name, kind, effort)
        runs[kind][name].append(told["rate"])
        runs[f"{kind} cpu"][name].append(told["cpu"])
        if kind == "kept":
            runs["memory"][name].append(told["memory"])
    told = _load(site, name, (), "latency", "100" if effort.quick else "1000")
    for share in ("p50", "p99"):
        runs[share][name].append(told[share])


def _bare(site: Site, runs: Runs, effort: Effort) -> None:
    _only(site, OURS)
    site.ctl("stop", site.worker)
    told = _load(site, OURS, (), "bare", _count(effort))
    runs["bare"][BARE].append(told["rate"])


def _only(site: Site, name: str, beside: tuple[str, ...] = ()) -> None:
    """This one's services and nobody else's, with an empty Redis and a worker just started."""
    other = GUIDE if name == OURS else OURS
    pi = site.pi
    stopped = [unit for unit in (*BESIDE[OURS], *BESIDE[GUIDE]) if unit != "nginx"]
    pi.run("systemctl", "stop", "celery-worker", "guide-worker", *stopped, check=False)
    if other == GUIDE:
        pi.run("systemctl", "stop", "guide-redis")
    site.ctl("start", site.redis)
    wait_for("Redis answers", lambda: site.ask("ping") == "PONG")
    site.ask("flushall")
    site.ctl("start", site.worker, *beside)
    wait_for("the worker consumes", site.ready)


def _flow(site: Site, name: str, kind: str, effort: Effort) -> dict[str, float]:
    return _load(site, name, (), "flow", _count(effort), kind)


def _count(effort: Effort) -> str:
    return "300" if effort.quick else str(LARGEST_TASKS)


def _load(site: Site, name: str, beside: tuple[str, ...], *what: str) -> dict[str, float]:
    units = ",".join((*RUNNING[name], *beside))
    command = (f"{APP}/venv/bin/python", LOAD, site.broker, units, *what)
    told: dict[str, float] = json.loads(site.pi.run(*command).stdout.splitlines()[-1])
    return told


def _figures(runs: Runs) -> list[Figure]:
    if "ignored" in runs:  # as the guide has it, results are kept
        runs["ignored"] |= {GUIDE_KEPT: runs["kept"][GUIDE]}
    for kind in KINDS:
        if kind in runs:
            runs[kind] |= runs["bare"]
    return [
        Figure(f"tasks-{slug}", title, unit, dict(runs[of]), goals)
        for slug, title, unit, of, goals in _TABLE
        if of in runs
    ]


def _faster(times: float, other: str = GUIDE) -> list[Goal]:
    return [Goal(OURS, other, times, at_least=True)]


def _less(times: float) -> list[Goal]:
    return [Goal(OURS, GUIDE, times)]


RATE, COST = "tasks/s", "s per 1,000 tasks"
_TABLE: list[tuple[str, str, str, str, list[Goal]]] = [
    ("kept", "Tasks a second, results kept", RATE, "kept", _faster(4)),
    ("ignored", "Tasks a second, results ignored", RATE, "ignored", _faster(4.5, GUIDE_KEPT)),
    ("watched", "Tasks a second, Flower watching", RATE, "watched", _faster(2.5)),
    ("cpu-kept", "Processor time, results kept", COST, "kept cpu", _less(0.4)),
    ("cpu-ignored", "Processor time, results ignored", COST, "ignored cpu", _less(0.4)),
    ("p50", "From sending to result, median", "ms", "p50", []),
    ("p99", "From sending to result, 99 of 100", "ms", "p99", _less(1)),
    ("memory", "Memory of Redis and worker after load", "MB", "memory", []),
    ("everything", "Memory of all services after load", "MB", "everything", _less(1)),
]
