"""No task takes the worker with it, nor another task: each costs itself alone, and says why."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redis_server import redis_server
from test_guarded_worker import CONTROL, PREFIX, Site, guarded, wait_for

pytestmark = pytest.mark.fast

HARMLESS = [str(number) for number in range(20)]
WITHIN = 30  # seconds, for the harmless ones
BACK_WITHIN = 5  # seconds in which a worker takes tasks again that was ended

APP = """
import ctypes, os, signal, sys, threading
from celery.signals import worker_process_init

app.conf.worker_lost_wait = 1  # so that a test takes less time

class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.lock = threading.Lock()

def recurse():
    return recurse() + 1

def ignore_soft_limit():
    while True:
        try:
            time.sleep(100)
        except Exception:
            pass

def fork(child):
    pid = os.fork()
    if not pid:
        return child()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def fork_that_stays():
    if not os.fork():
        time.sleep(60)
        os._exit(0)
    os._exit(1)

def fill(path):
    with open(path, "wb") as file:
        while True:
            file.write(bytes(2 ** 20))

def fail(error):
    raise error

@app.task
def harm(code):
    with Path("{directory}", "harm").open("a") as file:
        print("start", file=file)
    return eval(code)

@worker_process_init.connect
def start(**_):
    if Path("{directory}", "at-start").exists():
        exec(Path("{directory}", "at-start").read_text())
"""

LARGE = "'x' * 600_000_000"  # more than Redis takes
LOST = "WorkerLostError: its process was lost 4 times, so it was set aside"
# What a task does, and the failure that is seen by whoever awaits it.
FAILURES = {
    "fail(MemoryError('no room'))": "MemoryError: no room",
    "[0] * 10**15": "MemoryError",
    "recurse()": "RecursionError: maximum recursion depth exceeded",
    "sys.exit(3)": "TaskRaised: SystemExit 3",
    "sys.exit('enough')": "TaskRaised: SystemExit enough",
    "fail(KeyboardInterrupt())": "TaskRaised: KeyboardInterrupt",
    "fail(GeneratorExit())": "TaskRaised: GeneratorExit",
    "ctypes.string_at(0)": LOST,
    "os._exit(3)": LOST,
    "os._exit(0)": LOST,
    "os.kill(os.getpid(), signal.SIGSTOP)": "TimeLimitExceeded: 4",
    "ignore_soft_limit()": "TimeLimitExceeded: 4",
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)), time.sleep(9)": "TimeLimitExceeded: 4",
    "fork_that_stays()": LOST,
    "fail(Unpicklable(1, 2))": "UnpickleableExceptionWrapper: site_app Unpicklable",
    "object()": "EncodeError: TypeError('Object of type object is not JSON serializable')",
    "threading.Lock()": "EncodeError: TypeError('Object of type lock is not JSON serializable')",
    LARGE: "BackendStoreError: value too large for Redis",
    "os.closerange(3, 4096), fail(ValueError('closed'))": LOST,
    "fill('/dev/full')": "OSError: 28 No space left on device",
}
SUCCESSES = {
    "fork(lambda: 'child')": 0,
    "fork(lambda: sys.exit(7))": 7,
    "fork(lambda: 1 / 0)": 1,
    "os.closerange(0, 4096)": None,
}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Redis, str]]:
    with redis_server() as started:
        yield started


@pytest.fixture
def site(tmp_path: Path, server: tuple[Redis, str]) -> Site:
    redis, place = server
    redis.flushall()
    return made(tmp_path, redis, guarded(place))


def made(directory: Path, redis: Redis, lines: str) -> Site:
    site = Site(directory, redis, lines)
    with (directory / "site_app.py").open("a") as file:
        file.write(APP.replace("{directory}", str(directory)))
    return site


def send(site: Site, harm: str, times: int) -> tuple[list[str], float]:
    """The ids of harmful tasks, behind which harmless ones wait, and when they were sent. Three are
    one more than there are processes, of which none may stay away."""
    code = (
        f"print(*[harm.delay({harm!r}).id for _ in range({times})])\n"
        f"for name in {HARMLESS}: write.delay(name)"
    )
    return site.send(f"exec({code!r})").split(), time.monotonic()


def all_done(site: Site) -> bool:
    return all("end" in site.lines(name) for name in HARMLESS)


def outcome(site: Site, task: str) -> tuple[str, Any] | None:
    """A task's state, and its result or what is read of its failure."""
    stored: Any = site.redis.get(f"celery-task-meta-{task}")
    if stored is None:
        return None
    meta = json.loads(stored)
    result = meta["result"]
    if meta["status"] == "FAILURE":
        words = result["exc_message"]
        text = " ".join(map(str, words)) if isinstance(words, list) else str(words)
        result = f"{result['exc_type']}: {text}".rstrip()
    return meta["status"], result


def failure(site: Site, task: str) -> str:
    state, text = outcome(site, task) or ("", "")
    return text if state == "FAILURE" else ""


@pytest.mark.parametrize("harm", FAILURES)
def test_harmful_task_costs_itself_alone_and_fails_readably(site: Site, harm: str) -> None:
    expected, times = FAILURES[harm], 1 if harm == LARGE else 3
    if expected.startswith("TimeLimitExceeded"):
        with (site.directory / "site_app.py").open("a") as file:
            file.write("app.conf.update(task_time_limit=4, task_soft_time_limit=2)\n")
    with site.worker("one") as worker:
        tasks, sent_at = send(site, harm, times)
        wait_for(lambda: all_done(site), WITHIN - (time.monotonic() - sent_at))
        wait_for(lambda: all(failure(site, task).startswith(expected) for task in tasks), 60)
        wait_for(lambda: not site.left() - {"set-aside"})
        assert worker.poll() is None
    is_lost = expected == LOST
    assert site.redis.llen("set-aside") == (times if is_lost else 0)
    runs = len(site.lines("harm"))
    if is_lost:
        # A process may be gone before the pool has read that it took the task. Then Celery itself
        # runs the task again, as one that nobody took (`on_partial_read` of `asynpool.py`).
        assert 4 * times <= runs <= 5 * times
    else:
        assert runs == times
    assert [len(site.lines(name)) for name in HARMLESS] == [2] * 20


@pytest.mark.parametrize("harm", SUCCESSES)
def test_fork_ends_with_its_task_and_closed_files_cost_their_process_alone(
    site: Site, harm: str
) -> None:
    with site.worker("one") as worker:
        tasks, _ = send(site, harm, times=3)
        wait_for(lambda: all_done(site), WITHIN)
        wait_for(lambda: all(outcome(site, task) for task in tasks))
        wait_for(lambda: not site.left())
        assert worker.poll() is None
    assert [outcome(site, task) for task in tasks] == [("SUCCESS", SUCCESSES[harm])] * 3
    assert site.lines("harm") == ["start"] * 3


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_worker_that_a_task_ends_is_back_and_the_task_is_a_dead_letter_at_last(
    site: Site, name: str
) -> None:
    """Here the test starts the worker again, as systemd does after a second (RestartSec)."""
    harm = f"os.kill(os.getppid(), signal.{name}), time.sleep(0.5)"
    ends = 0
    with ExitStack() as workers:
        worker = workers.enter_context(site.worker("first"))
        (task,), sent_at = send(site, harm, times=1)
        while not (all_done(site) and outcome(site, task)):
            assert time.monotonic() - sent_at < 2 * WITHIN
            time.sleep(0.05)
            if worker.poll() is not None:
                ends += 1
                ended_at = time.monotonic()
                time.sleep(1)
                worker = workers.enter_context(site.worker(f"after-{ends}"))
                wait_for(site.alive, BACK_WITHIN - (time.monotonic() - ended_at))
    if name == "SIGTERM":  # a warm shutdown, before which the task ends
        assert (ends, outcome(site, task)) == (1, ("SUCCESS", [None, None]))
    else:
        assert (ends, outcome(site, task)) == (4, ("FAILURE", LOST))
        assert site.redis.llen("set-aside") == 1


# -- messages


def message(**parts: Any) -> dict[str, Any]:
    """One of a task, in which those parts are others."""
    body = b64encode(json.dumps([["harmful"], {}, {}]).encode()).decode()
    to = {"exchange": "", "routing_key": "celery"}
    properties = {"delivery_tag": "tag", "delivery_info": to, "body_encoding": "base64"}
    headers = {"task": "site_app.write", "id": "bad", "lang": "py", **parts.pop("headers", {})}
    made = {"body": body, "content-encoding": "utf-8", "content-type": "application/json"}
    return {**made, "properties": properties, "headers": headers, **parts}


TEXTS: dict[str, str | bytes] = {
    "no JSON": "garbage",
    "no text": b"\xff\x00",
    "a byte that is no text": json.dumps(message()).encode().replace(b'"lang"', b'"\xff"', 1),
    "no number for Python": json.dumps(message(headers={"x": 5})).replace("5", "0x5"),
    "a list": "[]",
    "deep": "[" * 100_000,
    "no properties": json.dumps(message(properties=None)),
    "no delivery tag": json.dumps(message(properties={"delivery_info": {}})),
    "no headers": json.dumps(message(headers={}) | {"headers": None}),
    "headers are a text": json.dumps(message(headers={}) | {"headers": "text"}),
    "no task": json.dumps(message(headers={"task": None})),
    "task is a list": json.dumps(message(headers={"task": []})),
    "id is a list": json.dumps(message(headers={"id": []})),
    "body is no base64": json.dumps(message(body="%")),
    "pickle": json.dumps(message() | {"content-type": "application/x-python-serialize"}),
    "time limits are a text": json.dumps(message(headers={"timelimit": "text"})),
    "stamps are a number": json.dumps(message(headers={"stamped_headers": 5})),
    "expires is a list": json.dumps(message(headers={"expires": [1]})),
}


@pytest.mark.parametrize("is_idle", [True, False], ids=["idle", "busy"])
def test_message_that_is_no_task_is_a_dead_letter(site: Site, is_idle: bool) -> None:
    """By BRPOP, which takes it when the worker is idle, and by the script, which takes it else."""
    texts = [text for text in TEXTS.values() for _ in range(3)]
    if not is_idle:
        site.redis.lpush("celery", *texts)
    with site.worker("one") as worker:
        if is_idle:
            wait_for(site.alive)
            for number, text in enumerate(texts, start=1):
                site.redis.lpush("celery", text)
                wait_for(lambda: site.redis.llen("set-aside") == number)  # noqa: B023
        site.send(f"[write.delay(name) for name in {HARMLESS}]")
        wait_for(lambda: all_done(site), WITHIN)
        assert worker.poll() is None
        wait_for(lambda: not site.left() - {"set-aside"})
    assert site.redis.llen("set-aside") == len(texts)
    assert not site.lines("harmful")
    kept: Any = site.redis.lrange("set-aside", 0, -1)
    letters = [json.loads(entry) for entry in kept]
    assert {key for _, keys, _ in letters for key in keys} == {"celery"}
    bytes_kept = [text.encode(errors="surrogateescape") for text, _, _ in letters]
    for text in ("garbage", b"\xff\x00", "[]"):
        whole = text if isinstance(text, bytes) else text.encode()
        assert bytes_kept.count(whole) == 3
    assert outcome(site, "bad")[0] == "FAILURE"  # type: ignore[index]


def test_a_dead_letter_knows_its_queue_where_keys_have_a_prefix(
    tmp_path: Path, server: tuple[Redis, str]
) -> None:
    redis, place = server
    redis.flushall()
    site = made(tmp_path, redis, guarded(place) + PREFIX)
    redis.lpush("birds:celery", "garbage", TEXTS["a byte that is no text"], TEXTS["deep"])
    with site.worker("one") as worker:
        wait_for(lambda: redis.llen("birds:set-aside") == 3)
        site.send("write.delay('0')")
        wait_for(lambda: "end" in site.lines("0"))
        assert worker.poll() is None
    kept: Any = redis.lrange("birds:set-aside", 0, -1)
    assert [json.loads(entry)[1] for entry in kept] == [["birds:celery"]] * 3
    assert not redis.exists("birds:unacked")


def test_entry_that_cannot_be_read_any_more_is_a_dead_letter(site: Site) -> None:
    """Such as that of a message which a worker had fetched when it was killed."""
    message = b'{"\xff": "],[", "properties": {}}'
    site.redis.hset("unacked", "tag", b"[" + message + b',"a, \\"b\\"","celery"]')
    site.redis.zadd("unacked_index", {"tag": 0})
    with site.worker("one") as worker:
        wait_for(lambda: site.redis.llen("set-aside") == 1, 30)
        assert not site.redis.exists("unacked", "unacked_index")
        assert worker.poll() is None
    kept: Any = site.redis.lindex("set-aside", 0)
    text, keys, _ = json.loads(kept)
    assert text.encode(errors="surrogateescape") == message
    assert keys == ["celery"]


def test_celery_alone_ends_at_a_message_that_is_no_task_and_discards_it(
    tmp_path: Path, server: tuple[Redis, str]
) -> None:
    redis, place = server
    redis.flushall()
    plain = made(tmp_path, redis, CONTROL.format(plain=f"redis+{place}"))
    redis.lpush("celery", "garbage")
    with plain.worker("one") as worker:
        assert worker.wait(timeout=30) == 1
    assert not redis.exists("celery", "unacked", "set-aside")


# -- processes that do not come up


@pytest.mark.parametrize(
    "at_start",
    [
        "time.sleep(100)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)), time.sleep(100)",
        "os._exit(0)",
        "ctypes.string_at(0)",
    ],
    ids=["hang", "hang without signals", "end", "segfault"],
)
def test_worker_whose_processes_do_not_come_up_ends_with_a_sentence(
    site: Site, at_start: str
) -> None:
    (site.directory / "at-start").write_text(at_start)
    site.send(f"[write.delay(name) for name in {HARMLESS}]")
    with site.worker("one") as worker:
        worker.wait(timeout=60)
    log = (site.directory / "one.log").read_text()
    assert "celery-pi: no pool process comes up, so the worker ends" in log
    assert 4 <= log.count("exited with") <= 12 or at_start == "os._exit(0)"
    (site.directory / "at-start").unlink()
    with site.worker("two"):
        wait_for(lambda: all_done(site))
    assert site.redis.llen("set-aside") == 0


def test_worker_goes_on_when_its_processes_come_up_at_last(site: Site) -> None:
    count = site.directory / "count"
    (site.directory / "at-start").write_text(
        f"Path('{count}').open('a').write('x'), Path('{count}').stat().st_size > 3 or os._exit(1)"
    )
    with site.worker("one") as worker:
        site.send(f"[write.delay(name) for name in {HARMLESS}]")
        wait_for(lambda: all_done(site), WITHIN)
        assert worker.poll() is None
