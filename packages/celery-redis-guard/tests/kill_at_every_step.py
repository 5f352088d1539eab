"""What is lost, hangs or runs twice when something is killed at each step of a canvas.

    python kill_at_every_step.py [--control] [--only CANVAS ...] [--json FILE]

A worker of one process, restarted when it ends as systemd would, reaches its Redis through a proxy
that knows the steps (`step_proxy`). A canvas is sent once to see its steps, and then once for each
of them, at which something is killed. With `--control` it is plain Celery with the same settings.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from threading import Event, Lock, Thread
from typing import Any, NamedTuple
from uuid import uuid4

from celery import Celery
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from canvases import CANVASES, Tasks
from guard_process import SOURCE
from redis_server import guarded_broker
from step_proxy import StepProxy

README = (SOURCE.parent / "README.md").read_text()
SIX_LINES = README.partition("```python")[2].partition("```")[0]
URL = "redis://user:password@localhost:6379/0"
RESULTS = f"celeryredisguard.Backend+{URL}"
CONTROL = """
broker_url = result_backend = "redis+{place}"
task_acks_late = task_reject_on_worker_lost = worker_deduplicate_successful_tasks = True
"""
PROJECT = """
from celery import Celery
from canvases import Tasks
class Settings:
{lines}
    worker_prefetch_multiplier = 1
app = Celery("canvases")
app.config_from_object(Settings)
Tasks(app)
"""
READY = {"SUCCESS", "FAILURE", "REVOKED"}

STALLED = 5.0  # seconds without a step after which a canvas hangs
SETTLED = 0.4  # seconds without a step and with nothing unacknowledged after which it has ended
STUCK = 15.0  # seconds after which a worker that does not wait for a task will never
POLL = 0.02

PROCESS, WORKER, REDIS, BEFORE = "task's process", "worker", "Redis", "Redis before the step"
TARGETS = (PROCESS, WORKER, REDIS, BEFORE)


# Why a task runs twice: what was killed, and after which step.
TWICE = {
    (PROCESS, WORKER): {
        "process: end of a task": "it had ended, and its result was not kept yet",
        "process: EXEC SETEX celery-taskset-meta": "it had ended, and its result was not kept yet",
        "process: count": "it completes a chord: its result is kept a step later, with the body",
        "process: GET celery-taskset-meta": "it completes a chord, as above",
        "process: LPUSH": "sent by the task itself, or because it has failed: it runs again",
        "process: grow": "sent by the task itself: it runs again",
        "process: SETEX": "it had failed, which was not acknowledged yet",
        "process: store": "it had failed, which was not acknowledged yet",
    },
    (REDIS,): {
        "process: LPUSH": "Redis could not say that it had the message, so it is sent again",
    },
}


class Outcome(NamedTuple):
    """What a kill has cost."""

    canvas: str
    target: str
    step: str  # the last one that was done, or the first that was not
    lost: int  # tasks that never ended
    hung: bool  # a result never arrived
    twice: int  # ends too many


def reason(outcome: Outcome) -> str | None:
    """Why tasks may have run twice, if they may."""
    for killed, steps in TWICE.items():
        for step, why in steps.items():
            if outcome.target in killed and outcome.step.startswith(step):
                return why
    return None


class Server:
    """A Redis that keeps its data when it is killed."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / "server.sock"
        self.client = Redis(unix_socket_path=str(self.path))
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *("redis-server", "--port", "0", "--unixsocket", str(self.path), "--save", ""),
                *("--appendonly", "yes", "--dir", str(self.directory)),
                *("--logfile", f"{self.directory}/redis.log"),
            ]
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client.ping()
                return
            except (RedisConnectionError, FileNotFoundError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL)

    def restart(self) -> None:
        self.process.kill()
        self.process.wait()
        Thread(target=self.start).start()


class Worker:
    """A worker of one process that is started again whenever it ends."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory, self.environment = directory, environment
        self.ready, self.stopping = Event(), False
        self.thread = Thread(target=self._keep_running)
        self.thread.start()

    def _keep_running(self) -> None:
        options = "-c1 -n one@site --without-mingle --without-gossip --without-heartbeat"
        command = [sys.executable, "-m", "celery", "-A", "site_app", "worker", *options.split()]
        with (self.directory / "worker.log").open("a") as log:
            while not self.stopping:
                self.process = subprocess.Popen(
                    command,
                    env=self.environment,
                    cwd=self.directory,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                self.process.wait()
                self.ready.clear()
                self._kill_group()

    def _kill_group(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def kill_main(self) -> None:
        self.ready.clear()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_pool(self) -> None:
        pid = self.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)

    def restart(self) -> None:
        self.kill_main()
        assert self.ready.wait(60)

    def stop(self) -> None:
        self.stopping = True
        self._kill_group()
        self.thread.join()


class Driver:
    """A Redis, a worker behind a proxy, and what its tasks tell."""

    def __init__(self, directory: Path, is_control: bool) -> None:
        self.directory = directory
        self.server = Server(directory)
        self.lock = Lock()
        self.ends: Counter[tuple[str, str]] = Counter()
        self.moved_at = time.monotonic()  # when there was a step
        self.target = ""
        self.seen: list[str] = []  # steps of this case
        self.wanted: tuple[str, int] | None = None  # a step, and the how manyth of that name
        self.fired = False
        self.proxy = StepProxy(directory / "proxy.sock", self.server.path)
        self.proxy.before, self.proxy.after = self._before, self._after
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / "driver.sock"))
        self.listener.listen(16)
        Thread(target=self._listen, daemon=True).start()
        place = f"socket://{self.server.path}?virtual_host=0"
        backend = f"canvases.SendersBackend+{place}"
        self.app = Celery("canvases", broker=f"redis+{place}", backend=backend)
        self.tasks = Tasks(self.app)
        self.worker = self._start_worker(is_control)

    def _start_worker(self, is_control: bool) -> Worker:
        place = f"socket://{self.proxy.path}?virtual_host=0"
        ours = SIX_LINES.replace(RESULTS, f"celeryredisguard.Backend+{place}")
        ours = ours.replace(URL, guarded_broker(place))
        lines = CONTROL.format(place=place) if is_control else ours
        (self.directory / "site_app.py").write_text(PROJECT.format(lines=indent(lines, "    ")))
        here = Path(__file__).resolve().parent
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{self.directory}:{here}:{SOURCE}",
            "CANVAS_DRIVER": str(self.directory / "driver.sock"),
            "CELERY_PI_UNIT": "canvases",  # so that a successor takes over at once
        }
        return Worker(self.directory, environment)

    def close(self) -> None:
        self.worker.stop()
        self.server.process.kill()
        self.server.process.wait()

    # -- steps

    def _listen(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            Thread(target=self._told, args=(connection,), daemon=True).start()

    def _told(self, connection: socket.socket) -> None:
        with connection:
            word, pid, *rest = connection.recv(1000).decode().rstrip("\n").split(" ")
            if word == "ready":
                self.worker.ready.set()
            else:
                case, name = rest
                if word == "end":
                    self.ends[case, name] += 1
                self._after(f"{word} of a task", int(pid))
            with suppress(BrokenPipeError):  # it was killed
                connection.sendall(b"\n")

    def _before(self, name: str, pid: int) -> bool:
        return self.target == BEFORE and self._step(name, pid)

    def _after(self, name: str, pid: int) -> bool:
        self.moved_at = time.monotonic()
        return self.target != BEFORE and self._step(name, pid)

    def _step(self, name: str, pid: int) -> bool:
        """Kill if this is the step; whether Redis was."""
        with self.lock:
            whose = "worker" if pid == self.worker.process.pid else "process"
            step = f"{whose}: {name}"
            self.seen.append(step)
            if self.fired or (step, self.seen.count(step)) != self.wanted:
                return False
            self.fired = True
            if self.target == WORKER:
                self.worker.kill_main()
            elif self.target == PROCESS:
                self.worker.kill_pool()
            else:
                self.server.restart()
                return True
            return False

    # -- cases

    def steps(self, canvas: str, target: str) -> list[tuple[str, int]]:
        """The steps of that canvas, and the how manyth of its name each is."""
        self.run(canvas, target, None)
        seen = self.seen
        return [(step, seen[:place].count(step) + 1) for place, step in enumerate(seen)]

    def run(self, canvas: str, target: str, wanted: tuple[str, int] | None) -> Outcome | None:
        """Kill at that step; None if it did not come."""
        assert self.worker.ready.wait(60)
        case = uuid4().hex
        self._let_it_wait()
        self.seen, self.fired = [], False
        self.target, self.wanted = target, wanted
        result = CANVASES[canvas].build(self.tasks, case).apply_async()
        self.moved_at = time.monotonic()
        self.proxy.open.set()
        done, at_rest = self._wait(result)
        if not at_rest:
            self.server.client.flushall()
            self.worker.restart()
        if not self.fired:
            assert done
            return None
        ends = {name: self.ends[case, name] for name in CANVASES[canvas].ends}
        lost = sum(not count for count in ends.values())
        twice = sum(max(0, count - 1) for (key, _), count in self.ends.items() if key == case)
        assert wanted
        return Outcome(canvas, target, wanted[0], lost, not done, twice)

    def _let_it_wait(self) -> None:
        """Stop all traffic when the worker has nothing to do, so that each case begins alike. One
        that takes no more tasks after the last case is restarted."""
        deadline = time.monotonic() + STUCK
        while True:
            self.proxy.open.clear()
            if self.proxy.is_waiting():
                return
            self.proxy.open.set()
            time.sleep(POLL)
            if time.monotonic() > deadline:
                self.server.client.flushall()
                self.worker.restart()
                deadline = time.monotonic() + STUCK

    def _wait(self, result: Any) -> tuple[bool, bool]:
        """Whether all results arrive, and whether nothing is left to be done."""
        ids = [part.id for part in getattr(result, "results", None) or [result]]
        while True:
            time.sleep(POLL)
            still = time.monotonic() - self.moved_at
            if not self.worker.ready.is_set():
                self.moved_at = time.monotonic()
                continue
            try:
                values: Any = self.server.client.mget([f"celery-task-meta-{name}" for name in ids])
                busy = self.server.client.exists("unacked", "celery")
            except (RedisConnectionError, FileNotFoundError):
                self.moved_at = time.monotonic()
                continue
            done = all(value and json.loads(value)["status"] in READY for value in values)
            if done and not busy and still > SETTLED:
                return True, True
            if still > STALLED:
                return done, False

    def all_steps(self, canvas: str, target: str) -> Iterator[Outcome]:
        for wanted in self.steps(canvas, target):
            outcome = self.run(canvas, target, wanted) or self.run(canvas, target, wanted)
            if outcome:
                yield outcome
            else:
                print(f"{canvas}: no step {wanted} in two runs", file=sys.stderr)


@contextmanager
def driver(is_control: bool = False) -> Iterator[Driver]:
    with TemporaryDirectory(prefix="steps-") as directory:  # a socket's path must be short
        made = Driver(Path(directory), is_control)
        try:
            yield made
        finally:
            made.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--only", nargs="*", choices=CANVASES, default=list(CANVASES))
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=TARGETS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and nothing of it goes on
    outcomes = []
    with driver(arguments.control) as made:
        for canvas in arguments.only:
            for target in arguments.targets:
                for outcome in made.all_steps(canvas, target):
                    outcomes.append(outcome)
                    print(*outcome, sep=" | ", flush=True)
    if arguments.json:
        found = [{**outcome._asdict(), "why": reason(outcome)} for outcome in outcomes]
        arguments.json.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
