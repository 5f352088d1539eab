"""A worker of an app that has only the six lines of README.md, with a real Redis and no systemd:
no task is lost when a process or the worker is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from typing import Any

import pytest
from redis import Redis

from guard_process import SOURCE
from redis_server import guarded_broker, redis_server, started

pytestmark = pytest.mark.fast

GRACE = 4  # seconds that a worker may be without its connection

README = (SOURCE.parent / "README.md").read_text()
SIX_LINES = f"""
class Settings:
{indent(README.partition("```python")[2].partition("```")[0], "    ")}
app.config_from_object(Settings)
"""
URL = "redis://user:password@localhost:6379/0"
RESULTS = f"celeryredisguard.Backend+{URL}"
# The same without the guard.
CONTROL = """
app.conf.broker_url = app.conf.result_backend = "{plain}"
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1)
"""
PROJECT = """
import os, time
from pathlib import Path
from celery import Celery
from celery_redis_guard import liveness
liveness.GRACE, liveness.INTERVAL = {grace}, 1  # so that a test takes less time
app = Celery("site")
{lines}
@app.task
def write(name, seconds=0):
    with Path("{directory}", name).open("a") as file:
        print(os.getpid(), file=file, flush=True)
        time.sleep(seconds)
        print("end", file=file, flush=True)
    return name

@app.task
def too_large():
    raise MemoryError("no room")

@app.task
def crash():
    with Path("{directory}", "crash").open("a") as file:
        print("start", file=file)
    os.kill(os.getpid(), 9)
"""


class Site:
    """An app, its Redis and its workers."""

    def __init__(self, directory: Path, redis: Redis, lines: str) -> None:
        self.directory, self.redis = directory, redis
        (directory / "site_app.py").write_text(
            PROJECT.format(lines=lines, directory=directory, grace=GRACE)
        )
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{directory}:{SOURCE}",
        }

    def send(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", f"from site_app import *; {code}"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @contextmanager
    def worker(self, name: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "celery", "-A", "site_app", "worker", "-c2"]
        with (self.directory / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [*command, "-n", f"{name}@site", "--without-mingle"],
                env=self.environment,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().split() if path.exists() else []

    def alive(self) -> list[Any]:
        channels: Any = self.redis.pubsub_channels("celery-pi.alive.*")
        return list(channels)

    def left(self) -> set[str]:
        keys = {key.decode() for key in self.redis.scan_iter()}
        return {key for key in keys if key.startswith(("unacked", "celery-pi", "set-aside"))}


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Redis, str]]:
    with redis_server() as started:
        yield started


@pytest.fixture
def site(tmp_path: Path, server: tuple[Redis, str]) -> Site:
    redis, place = server
    redis.flushall()
    return Site(tmp_path, redis, guarded(place))


def guarded(place: str) -> str:
    """The six lines, for that Redis."""
    lines = SIX_LINES.replace(RESULTS, f"celeryredisguard.Backend+{place}")
    return lines.replace(URL, guarded_broker(place))


def test_task_is_done_and_its_result_is_kept(site: Site) -> None:
    with site.worker("one") as worker:
        assert site.send("print(write.delay('done').get(timeout=30))") == "done"
        worker.terminate()
        assert worker.wait(timeout=30) == 0
    assert len(site.lines("done")) == 2
    assert site.left() == set()


def test_redis_is_reached_by_tcp_too_in_the_database_of_the_url(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with redis_server(port) as (redis, _):
        site = Site(tmp_path, redis, SIX_LINES.replace(URL, f"redis://localhost:{port}/3"))
        with site.worker("one"):
            assert site.send("print(write.delay('done').get(timeout=30))") == "done"
            keyspace: Any = redis.info("keyspace")
            assert set(keyspace) == {"db3"}


def test_worker_goes_on_when_redis_is_killed_while_a_task_runs(tmp_path: Path) -> None:
    with TemporaryDirectory(prefix="guard-") as directory:
        socket = Path(directory, "redis.sock")
        options = ("--port", "0", "--appendonly", "yes", "--appendfsync", "always")
        redis = Redis(unix_socket_path=str(socket))
        site = Site(tmp_path, redis, guarded(f"socket://{socket}?virtual_host=0"))
        with ExitStack() as stack:
            with started(socket, *options):
                worker = stack.enter_context(site.worker("one"))
                site.send("[write.delay(name, 6) for name in ('a', 'b', 'waits')]")
                wait_for(lambda: site.lines("a") and site.lines("b"))
            time.sleep(1)
            with started(socket, *options):
                wait_for(lambda: "end" in site.lines("waits"))
                assert site.send("print(write.delay('new').get(timeout=30))") == "new"
                wait_for(lambda: not redis.exists("unacked"))
                assert worker.poll() is None
                assert {name: len(site.lines(name)) for name in ("a", "b", "waits", "new")} == (
                    dict.fromkeys(("a", "b", "waits", "new"), 2)
                )
                worker.terminate()
                assert worker.wait(timeout=30) == 0
                assert site.left() == set()


def test_task_whose_process_is_killed_runs_again(site: Site) -> None:
    with site.worker("one"):
        site.send("write.delay('killed', 3)")
        wait_for(lambda: site.lines("killed"))
        os.kill(int(site.lines("killed")[0]), signal.SIGKILL)
        wait_for(lambda: "end" in site.lines("killed"))
        wait_for(lambda: not site.left() - {"celery-pi"})
    assert site.lines("killed").count("end") == 1


def test_task_that_kills_its_process_is_a_dead_letter_after_three_redeliveries(site: Site) -> None:
    with site.worker("one"):
        code = (
            "result = crash.delay()\n"
            "try: result.get(timeout=40)\n"
            "except Exception as error: print(type(error).__name__)"
        )
        assert site.send(f"exec({code!r})") == "WorkerLostError"
    assert site.lines("crash") == ["start"] * 4
    assert site.redis.llen("set-aside") == 1


def test_chord_of_a_dead_letter_fails_and_its_error_callback_runs(site: Site) -> None:
    with site.worker("one"):
        code = (
            "body = write.si('body').on_error(write.si('of-body'))\n"
            "header = [crash.s().on_error(write.si('of-header')), write.si('other')]\n"
            "result = app.AsyncResult(chord(header, body).delay().id)\n"
            "try: result.get(timeout=40)\n"
            "except Exception as error: print(type(error).__name__)"
        )
        assert site.send(f"from celery import chord; exec({code!r})") == "ChordError"
        wait_for(lambda: all("end" in site.lines(name) for name in ("of-header", "of-body")))
    assert not site.lines("body")


def test_task_of_an_unknown_name_is_kept_until_a_worker_knows_it(site: Site) -> None:
    """One of a newer site, which was deployed before its worker."""
    result = "app.send_task('newer', priority=3).get(timeout=30, propagate=False)"
    with site.worker("one"):
        assert site.send(f"print(type({result}).__name__)") == "NotRegistered"
        wait_for(lambda: site.redis.llen("set-aside") == 1)
        wait_for(lambda: not site.redis.exists("unacked"))
    crashed = dumps([dumps({"headers": {"task": "newer"}}), ["celery"], 1.0])
    strange = ["no JSON", "[]", dumps([dumps({"headers": None}), 5])]
    site.redis.lpush("set-aside", crashed, *strange)
    with site.worker("two"):  # which does not know it either
        assert site.send("print(write.delay('other').get(timeout=30))") == "other"
    assert site.redis.llen("set-aside") == 5
    with (site.directory / "site_app.py").open("a") as file:
        file.write("\n@app.task(name='newer')\ndef newer(): return write('newer')\n")
    with site.worker("three"):
        wait_for(lambda: "end" in site.lines("newer"))
        wait_for(lambda: not site.redis.exists("unacked"))
    left = [entry.decode() for entry in site.redis.lrange("set-aside", 0, -1)]  # type: ignore[union-attr]
    assert left == [*reversed(strange), crashed]
    assert len(site.lines("newer")) == 2


def test_memory_error_costs_its_task_alone(site: Site) -> None:
    with site.worker("one") as worker:
        code = (
            "failed = [too_large.delay() for _ in range(3)]\n"
            "harmless = [write.delay(str(number)) for number in range(6)]\n"
            "print(*[result.get(timeout=30) for result in harmless])\n"
            "print(*[repr(result.get(timeout=30, propagate=False)) for result in failed])"
        )
        assert site.send(f"exec({code!r})").splitlines() == [
            "0 1 2 3 4 5",
            " ".join(["MemoryError('no room')"] * 3),
        ]
        assert worker.poll() is None
    assert site.left() == set()


def test_task_of_a_killed_worker_runs_in_another(site: Site) -> None:
    with site.worker("one") as first, site.worker("two"):
        site.send("[write.delay(str(number), 8) for number in range(4)]")
        names = [str(number) for number in range(4)]
        wait_for(lambda: all(map(site.lines, names)))
        os.killpg(first.pid, signal.SIGKILL)
        wait_for(lambda: all("end" in site.lines(name) for name in names), 90)
        wait_for(lambda: not site.redis.exists("unacked"))
    assert sum(site.lines(name).count("end") for name in names) == 4


def test_task_for_which_a_worker_waits_before_it_ends_is_not_taken_from_it(site: Site) -> None:
    with site.worker("one") as first, site.worker("two"):
        wait_for(lambda: len(site.alive()) == 2)
        site.send(f"[write.delay(str(number), {4 * GRACE}) for number in range(4)]")
        names = [str(number) for number in range(4)]
        wait_for(lambda: all(map(site.lines, names)))
        first.terminate()
        assert first.wait(timeout=60) == 0
        wait_for(lambda: not site.redis.exists("unacked"))
    assert [len(site.lines(name)) for name in names] == [2] * 4


def test_celery_alone_leaves_the_task_of_a_killed_worker_where_it_is(
    tmp_path: Path, server: tuple[Redis, str]
) -> None:
    """The control: for an hour, which is the visibility timeout."""
    redis, place = server
    redis.flushall()
    plain = Site(tmp_path, redis, CONTROL.format(plain=f"redis+{place}"))
    with plain.worker("one") as first:
        plain.send("write.delay('lost', 8)")
        wait_for(lambda: plain.lines("lost"))
        os.killpg(first.pid, signal.SIGKILL)
    with plain.worker("two"):
        assert plain.send("print(write.delay('other').get(timeout=30))") == "other"
        time.sleep(2 * GRACE)  # after which a guarded worker has requeued it
    assert "end" not in plain.lines("lost")
    assert redis.hlen("unacked") == 1


# -- an app whose keys have a prefix

PREFIX = """
app.conf.broker_transport_options = {"global_keyprefix": "birds:"}
app.conf.result_backend_transport_options = {"global_keyprefix": "birds:"}
"""
LOOK = """
with app.connection_for_read() as connection:
    qos = connection.default_channel.qos
    print(*(tag.decode() for tag in qos.tags_fetched_at(5.0)))
    qos.restore_visible()
"""


def test_no_key_lacks_the_prefix(tmp_path: Path, server: tuple[Redis, str]) -> None:
    redis, place = server
    redis.flushall()
    site = Site(tmp_path, redis, guarded(place) + PREFIX)
    with site.worker("one") as worker:
        task = site.send("print(write.delay('long', 2).id)")
        wait_for(lambda: site.lines("long"))
        os.killpg(worker.pid, signal.SIGKILL)
    with site.worker("two"):
        wait_for(lambda: "end" in site.lines("long"))
        wait_for(lambda: redis.exists(f"birds:celery-task-meta-{task}"))
        redis.zadd("birds:unacked_index", {"gone": 5.0})
        assert site.send(LOOK) == "gone"
        assert not redis.exists("birds:unacked_index")  # of which no message was there
        keys = {key.decode() for key in redis.scan_iter()}
        channels: Any = redis.pubsub_channels("*alive*")
    assert {key for key in keys if not key.startswith("birds:")} == set()
    assert {channel.partition(b":")[0] for channel in channels} == {b"birds"}
