"""Redis' users do their whole job, and the server refuses them nothing on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.harness import APP, in_app, pids, redis, send, wait_for
from tests.helpers.redis_users import ask
from tests.helpers.site import api
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

CANVAS = """
from celery import chain, chord, group
from observations_nids.celery import app
from observations_nids.tasks import add, fail, retry, sleep, widen
gather = app.tasks["celery.accumulate"].s()
pair = [add.s(1, 1), add.s(2, 2)]
wait = {"timeout": 60}
assert add.apply_async((1, 2), priority=6).get(**wait) == 3
assert add.apply_async((1, 2), countdown=2).get(**wait) == 3
assert retry.delay(2).get(**wait) == 2
assert chain(add.s(1, 2), add.s(3))().get(**wait) == 6
assert group(pair)().get(**wait) == [2, 4]
assert sorted(chord(pair)(gather).get(**wait)[0]) == [2, 4]
assert sorted(chord([add.s(1, 1), widen.s(4)])(gather).get(**wait)[0]) == [2, 4, 8]
lost = chord([add.s(1, 1), fail.s("no nest")])(gather).get(**wait, propagate=False)
assert "no nest" in str(lost), lost
kept = group(pair)()
assert kept.get(**wait) == [2, 4]
kept.save()
app.GroupResult.restore(kept.id).delete()
kept.forget()
assert [result.state for result in kept] == ["PENDING", "PENDING"]
"""

CONTROL = """
from observations_nids.celery import app
from observations_nids.tasks import sleep
while not (found := app.control.inspect(timeout=3).ping()):
    pass
(worker,) = found
inspect = app.control.inspect([worker], timeout=30)  # ends with that one's answer
for asked in (inspect.active, inspect.reserved, inspect.scheduled, inspect.stats):
    assert list(asked()) == [worker]
told = {"destination": [worker], "reply": True, "timeout": 30}
assert app.control.rate_limit(sleep.name, "100/s", **told)
running = sleep.delay(60)
while running.id not in str(inspect.active()):
    pass
running.revoke(terminate=True)
running.get(timeout=60, propagate=False)
assert running.state == "REVOKED"
"""

SCRIPT = """
import redis
from observations_nids import config
server = redis.Redis.from_url(config.celery.broker_url)
text = "#!lua flags=allow-oom\\nredis.call('hdel', KEYS[2], 'x') return redis.call('llen', KEYS[1])"
keys = ["celeryev.none", "unacked"]
assert server.eval(text, 2, *keys) == server.register_script(text)(keys=keys) == 0
pipe = server.pipeline()
server.register_script(text)(keys=keys, client=pipe)
assert pipe.execute() == [0]
"""

MEASURES = (
    *("ping", "acl whoami", "info", "info commandstats", "dbsize", "lastsave", "client list"),
    *("config get *", "acl log 10", "slowlog get 10", "slowlog len", "latency latest"),
    *("latency history command", "latency doctor", "memory stats", "memory doctor"),
    *("scan 0 count 100", "llen celery", "hlen unacked", "zcard unacked_index", "select 0"),
    *("memory usage celery", "type celery", "ttl celery", "pttl celery", "exists celery"),
    *("scard _kombu.binding.celery", "pubsub channels celery-pi.alive.*"),
)


@pytest.fixture(autouse=True)
def _nothing_is_refused(pi: VirtualPi) -> Iterator[None]:
    redis(pi, "acl", "log", "reset")
    yield
    assert redis(pi, "acl", "log", "100") == ""


def test_worker_and_beat_start_and_stop(pi: VirtualPi) -> None:
    pi.run("systemctl", "restart", "celery-worker", "celery-beat")
    assert send(pi, "add", 2, 40) == "42"


def test_app_sends_every_kind_of_task(pi: VirtualPi) -> None:
    in_app(pi, CANVAS)


def test_app_controls_its_worker(pi: VirtualPi) -> None:
    in_app(pi, CONTROL)


def test_app_runs_scripts_on_its_keys(pi: VirtualPi) -> None:
    in_app(pi, SCRIPT)


def test_app_counts_and_purges_a_queue(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "celery-beat", "celery-worker")
    code = (
        "from observations_nids.celery import app; from observations_nids.tasks import add\n"
        "app.control.purge()\n"
        "for n in range(3): add.apply_async((n, n), priority=3 * n)\n"
        "with app.connection() as c: print(c.default_channel.queue_declare('celery', passive=True))"
        "\nprint(app.control.purge())"
    )
    counted, purged = in_app(pi, code).splitlines()
    pi.run("systemctl", "start", "celery-worker", "celery-beat")
    assert "message_count=3" in counted
    assert purged == "3"


def test_task_of_a_killed_worker_comes_back(pi: VirtualPi) -> None:
    code = "from observations_nids.tasks import trace; print(trace.delay('acl-killed', 15).id)"
    task = in_app(pi, code)
    seen = f"{APP}/media/acl-killed"
    wait_for("it runs", lambda: f"{task} start 1" in pi.run("cat", seen, check=False).stdout)
    [noted] = ask(pi, [["hgetall", "unacked"]])  # where one of Beat's may be as well
    (tag,) = (tag for tag, entry in zip(noted[::2], noted[1::2], strict=True) if task in entry)
    redis(pi, "zadd", "unacked_index", "xx", "0", tag)  # as if it had been taken long ago
    pi.run("kill", "-KILL", pids(pi)["celery-worker"])
    wait_for("it runs again", lambda: f"{task} end 2" in pi.run("cat", seen).stdout, 120)


def test_flower_shows_workers_queues_tasks_and_results(pi: VirtualPi) -> None:
    def stats() -> Any:
        workers = api(pi, "workers?refresh=1")  # without one that has not answered in time
        return workers.get("celery@raspberrypi", {}).get("stats")

    assert wait_for("the worker answers", stats)["pool"]["max-concurrency"] == 2
    (queue,) = api(pi, "queues/length")["active_queues"]
    assert queue["name"] == "celery"
    code = "from observations_nids.tasks import add; r = add.delay(2, 40); r.get(timeout=60)"
    task = in_app(pi, f"{code}; print(r.id)")

    def is_done() -> bool:
        shown = (api(pi, "tasks") or {}).get(task, {})
        return bool(shown.get("state") == "SUCCESS")

    wait_for("the task is done", is_done)
    assert api(pi, f"task/result/{task}")["result"] == 42


def test_backup_copies_the_data(pi: VirtualPi) -> None:
    copy = "/tmp/acl.rdb"  # noqa: S108
    pi.run("/usr/local/lib/celery-pi/redis-cli", "backup", "--rdb", copy)
    assert "RDB looks OK" in pi.run("redis-check-rdb", copy).stdout
    replies = ask(pi, [["ping"], ["lastsave"], ["bgsave"], ["info", "persistence"]], "backup")
    assert replies[0] == "PONG"
    assert replies[2] == "Background saving started"
    assert "rdb_last_bgsave_status:ok" in replies[3]


def test_monitor_measures_and_reads_no_value(pi: VirtualPi) -> None:
    replies = ask(pi, [measure.split() for measure in MEASURES], "monitor")
    told = zip(MEASURES, replies, strict=True)
    assert not [pair for pair in told if str(pair[1]).partition(": ")[0].endswith("Error")]
