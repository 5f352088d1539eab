"""Runs on the machine, as root: sends tasks to a worker that waits, and measures how it goes.

`load.py URL UNITS flow COUNT kept|ignored`, `load.py URL UNITS latency COUNT`,
`load.py URL UNITS memory`, `load.py URL UNITS bare COUNT`: JSON on standard output. URL is the
broker's, empty for the one in the app's `.env`; UNITS are those whose processor time and memory
count, by commas.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

APP = "/var/www/observations_nids"
GROUPS = Path("/sys/fs/cgroup/system.slice")
SOCKET = "/run/redis-celery/redis.sock"
SETTLE = 0.5  # seconds until a worker has heard that it is not to consume


def look(units: Iterable[str]) -> float:
    """Seconds of processor time that the units have taken."""
    stats = [GROUPS / f"{unit}.service/cpu.stat" for unit in units]
    return sum(int(stat.read_text().split()[1]) for stat in stats) / 1e6


def memory(units: Iterable[str]) -> float:
    """MB that the units' processes have, what they share divided among them."""
    procs = [GROUPS / f"{unit}.service/cgroup.procs" for unit in units]
    pids = [pid for listed in procs for pid in listed.read_text().split()]
    lines = [
        line.split()
        for pid in pids
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    ]
    return sum(int(line[1]) for line in lines if line[0] == "Pss:") / 1024


def client(url: str) -> Any:
    """Who may look into the queue and into what is not acknowledged."""
    from redis import Redis

    if url:
        return Redis.from_url(url)
    secret = Path("/etc/celery-pi/secrets/redis_admin_password").read_text().strip()
    return Redis(unix_socket_path=SOCKET, username="admin", password=secret)


def flow(url: str, units: list[str], count: str, kind: str) -> dict[str, float]:
    """Tasks per second of a queue that is full, from its first tenth on, and their cost."""
    from observations_nids.celery import app
    from observations_nids.tasks import add

    redis, tasks = client(url), int(count)

    def left() -> int:
        pipe = redis.pipeline(transaction=False)
        return sum(pipe.llen("celery").hlen("unacked").execute())

    app.control.cancel_consumer("celery")
    time.sleep(SETTLE)
    for _ in range(tasks):
        add.apply_async((1, 2), ignore_result=kind == "ignored")
    app.control.add_consumer("celery")
    while left() > tasks * 9 // 10:
        time.sleep(0.02)
    begun, timed, spent = left(), time.monotonic(), look(units)
    while left():
        time.sleep(0.02)
    seconds, spent = time.monotonic() - timed, look(units) - spent
    return {"rate": begun / seconds, "cpu": spent / begun * 1000, "memory": memory(units)}


def latency(count: str) -> dict[str, float]:
    """Milliseconds from a task's sending to its result, one task after the other."""
    from observations_nids.tasks import add

    times = []
    for _ in range(int(count)):
        sent = time.perf_counter()
        add.delay(1, 2).get(timeout=30)
        times.append((time.perf_counter() - sent) * 1000)
    times.sort()
    return {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}


def bare(url: str, count: str) -> dict[str, float]:
    """Tasks per second of two processes that take the same messages and write the same results."""
    from observations_nids.tasks import add

    redis, tasks = client(url), int(count)
    add.delay(1, 2)  # no worker runs: Celery's own message stays in the queue
    message = redis.brpop(["celery"], timeout=5)[1]
    redis.lpush("bench-bare", *[message] * tasks)
    processes = [multiprocessing.Process(target=_work, args=(url,)) for _ in range(2)]
    begun = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return {"rate": tasks / (time.monotonic() - begun)}


def _work(url: str) -> None:
    redis = client(url)
    while found := redis.rpop("bench-bare"):
        headers = json.loads(found)["headers"]
        key, result = "celery-task-meta-bench", json.dumps({"id": headers["id"], "result": 3})
        redis.pipeline().setex(key, 86400, result).publish(key, result).execute()


def main() -> None:
    url, units, what, *rest = sys.argv[1:]
    if url:
        os.environ.update(CELERY_BROKER_URL=url, CELERY_RESULT_BACKEND=url)
    os.chdir(APP)
    sys.path.insert(0, APP)
    listed = [unit for unit in units.split(",") if unit]
    told = {
        "memory": lambda: {"memory": memory(listed)},
        "flow": lambda: flow(url, listed, *rest),
        "latency": lambda: latency(*rest),
        "bare": lambda: bare(url, *rest),
    }[what]()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
