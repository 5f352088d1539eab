"""Our worker beside plain Celery of the same versions, and beside other libraries: on this host,
without a machine, each with two processes and one Redis that writes its append-only file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis

from tests.bench.figure import Effort, Figure, Goal
from tests.helpers.harness import ROOT, run, wait_for
from tests.package_sets import TESTED_SETS, environment, environment_of

HERE = Path(__file__).parent / "queues"
DEFAULT = "C"
OURS, PLAIN = "celery-pi", "plain Celery, tuned"
PORT = 6391
TASKS = 4000
TICKS = os.sysconf("SC_CLK_TCK")
CLI = ("worker", "--concurrency=2")
TUNED = ("--without-gossip", "--without-mingle", "--loglevel=WARNING")
OTHERS = ("dramatiq[redis]==2.2.1", "huey==3.5.4", "taskiq==0.13.0", "taskiq-redis==1.2.4")


@dataclass(frozen=True)
class Competitor:
    """A worker's command, in the environment of its packages."""

    name: str
    python: Path
    module: str
    command: tuple[str, ...]
    kind: str = ""


def celery(of_set: str) -> list[Competitor]:
    """Guarded, plain with the same settings, and as the guide has it."""
    words, python = ("celery", "-A", "celery_app", *CLI), environment(of_set, sys.executable)
    return [
        Competitor(f"{name}, set {of_set}", python, "celery_app", (*words, *more), kind)
        for name, kind, more in (
            (OURS, "guarded", TUNED),
            (PLAIN, "plain", TUNED),
            ("guide", "guide", ("--loglevel=info", "--max-tasks-per-child=100")),
        )
    ]


def others() -> list[Competitor]:
    python = environment_of(OTHERS, sys.executable)
    return [
        Competitor(name, python, f"{name}_app", command)
        for name, command in (
            ("dramatiq", ("dramatiq", "dramatiq_app", "-p", "2", "-t", "8")),
            ("huey", ("huey_consumer", "huey_app.huey", "-k", "process", "-w", "2", "-q")),
            ("taskiq", ("taskiq", "worker", "--workers", "2", "taskiq_app:broker")),
        )
    ]


@dataclass(frozen=True)
class Load:
    """A Redis, the file in which each task writes a byte, and how much is sent."""

    redis: Redis
    pid: int
    done: Path
    tasks: int

    def run(self, competitor: Competitor, results: str) -> tuple[float, float]:
        """Tasks per second of a full queue, from its first tenth on, and seconds of processor time
        per 1,000 tasks, of the worker and Redis."""
        self.redis.flushall()
        self.done.write_bytes(b"")
        bin_ = competitor.python.parent
        variables = {
            **os.environ,
            "BENCH_REDIS": f"redis://127.0.0.1:{PORT}/0",
            "BENCH_DONE": str(self.done),
            "BENCH_KIND": competitor.kind,
            "BENCH_RESULTS": results,
            "PYTHONPATH": f"{HERE}:{ROOT / 'packages/celery-redis-guard/src'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        send = f"import {competitor.module} as app; app.send({self.tasks})"
        subprocess.run((bin_ / "python", "-c", send), env=variables, check=True, timeout=300)
        with (
            (self.done.parent / "log").open("wb") as log,
            subprocess.Popen(
                (bin_ / competitor.command[0], *competitor.command[1:]),
                env=variables,
                cwd=self.done.parent,
                start_new_session=True,
                stdout=log,
                stderr=log,
            ) as worker,
        ):
            try:
                return self._measure(worker)
            finally:
                _end(worker)

    def _measure(self, worker: subprocess.Popen[bytes]) -> tuple[float, float]:
        self._wait(self.tasks // 10, worker)
        begun, since, spent = self._count(), time.monotonic(), self._spent(worker.pid)
        self._wait(self.tasks, worker)
        seconds, spent = time.monotonic() - since, self._spent(worker.pid) - spent
        ran = self.tasks - begun
        return ran / seconds, spent / ran * 1000

    def _count(self) -> int:
        return self.done.stat().st_size

    def _wait(self, tasks: int, worker: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 300
        while self._count() < tasks:
            if time.monotonic() > end or worker.poll() is not None:
                raise RuntimeError((self.done.parent / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.005)

    def _spent(self, session: int) -> float:
        of_redis = _processor_seconds(_stat(Path("/proc", str(self.pid))))
        return of_redis + sum(_of_session(session).values())


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and kill what is left of its session."""
    worker.terminate()
    with suppress(subprocess.TimeoutExpired):  # whatever it waits for
        worker.wait(timeout=20)
    for pid in _of_session(worker.pid):
        os.kill(pid, signal.SIGKILL)
    worker.wait()


def _of_session(session: int) -> dict[int, float]:
    """Seconds of processor time of each process of it and of its children that have ended."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            fields = _stat(process)
            if int(fields[3]) == session and fields[0] != "Z":
                found[int(process.name)] = _processor_seconds(fields)
    return found


def _stat(process: Path) -> list[str]:
    """What proc(5) has of it, from its state on."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def _processor_seconds(fields: list[str]) -> float:
    return sum(map(int, fields[11:15])) / TICKS


@contextmanager
def _load(tasks: int) -> Iterator[Load]:
    with TemporaryDirectory(prefix="bench-") as directory:
        server = subprocess.Popen(
            [
                *("redis-server", "--port", str(PORT), "--dir", directory, "--save", ""),
                *("--appendonly", "yes", "--logfile", f"{directory}/redis.log"),
            ]
        )
        redis = Redis(port=PORT)
        try:
            ping = ("redis-cli", "-p", str(PORT), "ping")
            wait_for("Redis answers", lambda: run(*ping).stdout == "PONG\n")
            yield Load(redis, server.pid, Path(directory, "done"), tasks)
        finally:
            server.kill()
            server.wait()


def measure(effort: Effort) -> list[Figure]:
    """Each set by turns, then the other libraries with the default set."""
    sets = (DEFAULT,) if effort.quick else TESTED_SETS
    competitors = [each for name in sets for each in celery(name)] + others()
    runs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with _load(300 if effort.quick else TASKS) as load:
        for _ in range(effort.runs):
            for results in ("kept", "ignored"):
                for each in competitors:
                    if results == "kept" and not each.kind:
                        continue
                    rate, cost = load.run(each, results)
                    runs[results][each.name].append(rate)
                    runs[f"{results} cpu"][each.name].append(cost)
    return [
        Figure(f"beside-{slug}", title, unit, dict(runs[of]), _goals(sets, at_least), _NOTE)
        for slug, title, unit, of, at_least in _TABLE
        if of in runs
    ]


def _goals(sets: Iterable[str], at_least: bool) -> list[Goal]:
    """Our worker is at least level with plain Celery of the same versions."""
    return [Goal(f"{OURS}, set {name}", f"{PLAIN}, set {name}", 1, at_least) for name in sets]


_NOTE = """On the host, without a machine: two processes, TCP, a Redis with an append-only file,
tasks that write one byte. Processor time is that of the worker and of Redis. Plain Celery is tuned
as ours: late acks, one task prefetched, no gossip, no mingle, WARNING. dramatiq (2 processes of 8
threads) and taskiq (a stream) acknowledge late too; huey's task is off its queue before it runs."""
RATE, COST = "tasks/s", "s per 1,000 tasks"
_TABLE = [
    ("kept", "Tasks a second beside others, results kept", RATE, "kept", True),
    ("ignored", "Tasks a second beside others, results ignored", RATE, "ignored", True),
    ("cpu-kept", "Processor time beside others, results kept", COST, "kept cpu", False),
    ("cpu-ignored", "Processor time beside others, results ignored", COST, "ignored cpu", False),
]
