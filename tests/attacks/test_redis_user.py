"""Root in directories of user redis', who may be anybody that finds a hole in the server; and what
the app has in Redis while root acts on it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from tests.attacks.attacker import SECRET, Victim, newest_backup, swapping_new_files
from tests.helpers.harness import redis, wait_for

pytestmark = pytest.mark.native

DATA = "/var/lib/redis"
TARGET = "/etc/celery-pi-attack"
KEPT = "/root/celery-pi-redis"


@contextmanager
def stopped(victim: Victim) -> Iterator[None]:
    """Redis does not run, and afterwards runs with the data that it had."""
    victim.root("systemctl", "stop", "redis-server")
    victim.sh('rm -rf "$2" && cp -a "$1" "$2"', DATA, KEPT)
    try:
        yield
    finally:
        victim.root("systemctl", "stop", "redis-server", check=False)
        back = 'find "$1" -mindepth 1 -delete; cp -a "$2/." "$1" && rm -rf "$2"'
        victim.sh(f"systemctl reset-failed redis-server 2>/dev/null; {back}", DATA, KEPT)
        victim.root("systemctl", "start", "redis-server")
        alive = ("pubsub", "channels", "celery-pi.alive.*")
        wait_for("the worker is back", lambda: "alive" in redis(victim.pi, *alive))


def snapshot(victim: Victim) -> str:
    """The snapshot, without an append-only file beside it, is a link to a secret of root's."""
    plant = 'mv "$1/appendonlydir" "$1/attack"; ln -sf "$2" "$1/dump.rdb"'
    with victim.planted(TARGET), stopped(victim):
        victim.sh(plant, DATA, TARGET, user="redis")
        victim.root("systemctl", "start", "redis-server", check=False, timeout=10)
        return victim.sh('grep -rhs "$1" "$2"; true', SECRET, DATA, user="redis")


def test_a_start_of_redis_reads_no_file_of_roots_for_it(victim: Victim) -> None:
    victim.judge(snapshot(victim))


def damage(victim: Victim) -> str:
    """The append-only file is damaged, and where root notes that is a link to a file of his."""
    plant = 'for f in "$1"/appendonlydir/*.incr.aof; do echo damaged >>"$f"; done; '
    plant += 'for n in log aof; do ln -sf "$2" "$1/damaged.$n"; done'
    with victim.planted(TARGET, mode="644") as before, stopped(victim):
        victim.sh(plant, DATA, TARGET, user="redis")
        victim.root("systemctl", "start", "redis-server", check=False, timeout=10)
        after = victim.stat(TARGET)
    return "" if after == before else f"{before} -> {after}"


def test_a_start_of_redis_gives_it_no_file_of_roots(victim: Victim) -> None:
    victim.judge(damage(victim))


def replaced(victim: Victim) -> str:
    """Names that a restore gives to its files are links already."""
    plant = "for n in manifest.celery-pi 2.base.rdb 2.incr.aof 3.base.rdb 3.incr.aof; do "
    plant += 'ln -sfT "$2" "$1/appendonlydir/appendonly.aof.$n"; done'
    backup = newest_backup(victim)
    with victim.planted(TARGET, mode="644") as before, stopped(victim):
        victim.root("systemctl", "start", "redis-server")
        victim.sh(plant, DATA, TARGET, user="redis")
        victim.root("celery-pi", "restore", "--yes", "--only", "redis", backup, check=False)
        after = victim.stat(TARGET)
    victim.sh('rm -f "$1"', backup)
    for unit in ("celery-worker", "celery-beat", "celery-flower"):
        victim.root("systemctl", "start", unit)
    return "" if after == before else f"{before} -> {after}"


def test_a_restore_gives_redis_no_file_of_roots(victim: Victim) -> None:
    victim.judge(replaced(victim))


def configuration(victim: Victim) -> str:
    """A deploy changes the configuration of Redis."""
    with victim.planted(TARGET):
        with swapping_new_files(victim, "redis", "/etc/redis", TARGET):
            outcome = victim.deploy("tasks.redis.deploy", redis_loglevel="verbose")
        found = victim.sh('cat "$1" 2>/dev/null; true', TARGET, user="redis")
    assert victim.is_old or outcome.status == 0, outcome.output
    again = victim.deploy("tasks.redis.deploy")
    assert again.status == 0, again.output
    return found


def test_a_deploy_gives_redis_no_file_of_roots(victim: Victim) -> None:
    victim.judge(configuration(victim))


PUSH = """
for entry in json.loads(sys.argv[1]):
    redis.lpush("set-aside", entry)
"""


def message(task: str, queue: str, identity: str) -> str:
    """A task as Celery sends it."""
    body = b64encode(json.dumps([[identity], {"index": 0}, {}]).encode()).decode()
    headers = {"lang": "py", "task": task, "id": identity, "root_id": identity}
    told = {"exchange": "", "routing_key": queue}
    properties = {
        **{"correlation_id": identity, "delivery_mode": 2, "delivery_info": told, "priority": 0},
        **{"body_encoding": "base64", "delivery_tag": identity},
    }
    kinds = {"content-encoding": "utf-8", "content-type": "application/json"}
    return json.dumps({"body": body, "headers": headers, "properties": properties, **kinds})


def entry(task: str, queue: str, identity: str = "") -> str:
    """The same as one that was set aside."""
    return json.dumps([message(task, queue, identity or str(uuid4())), [queue], 1.0])


def set_aside(victim: Victim, *entries: str) -> None:
    """The app writes these to the list of what was set aside; its rights in Redis suffice."""
    victim.in_app(PUSH, json.dumps(entries))


def returned(victim: Victim) -> str:
    """Entries name queues of others'; root has all put back."""
    others = ("birds:celery", "birds", "celery-task-meta-x", "cache:x")
    try:
        set_aside(victim, *(entry("celery.accumulate", queue) for queue in others))
        victim.root("celery-pi", "set-aside", "--return", check=False)
        found = {queue: redis(victim.pi, "llen", queue) for queue in others}
    finally:
        redis(victim.pi, "del", "set-aside", *others)
    return ", ".join(queue for queue, number in found.items() if number != "0")


def test_what_is_put_back_comes_to_no_queue_of_others(victim: Victim) -> None:
    victim.judge(returned(victim))


def useless(victim: Victim) -> str:
    """Entries that are none lie before a true one."""
    identity = str(uuid4())
    key = f"celery-task-meta-{identity}"
    bad = ("no json", "[]", '["{}", [7], 1]', json.dumps(["x", ["celery"], "when"]))
    try:
        set_aside(victim, *bad, entry("celery.accumulate", "celery", identity))
        victim.root("celery-pi", "set-aside", "--return", check=False)
        if identity in redis(victim.pi, "lrange", "set-aside", "0", "-1"):
            return "a true one is not put back"
        wait_for("it is run", lambda: redis(victim.pi, "exists", key) == "1")
    finally:
        redis(victim.pi, "del", "set-aside", key)
    return ""


def test_a_bad_entry_keeps_no_other_from_being_put_back(victim: Victim) -> None:
    victim.judge(useless(victim))
