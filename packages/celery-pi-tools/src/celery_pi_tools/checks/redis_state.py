"""Managed by celery-pi. Redis: what it holds, and how safely."""

from __future__ import annotations

import time

from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.system import System
from celery_pi_tools.table import age, count, percent, size

FULL = 95  # percent; at 100 new tasks are refused
HIGH = 70  # percent, as redis-memory warns
DRAIN = "does the worker keep up? else raise redis_maxmemory and deploy"
LOOK_AT_DISK = "df -h /var/lib/redis; journalctl -u redis-server -n 50"


@check("Redis", "Server", "status")
def server(system: System) -> Finding:
    version, uptime = system.info["redis_version"], system.number("uptime_in_seconds")
    return ok(f"version {version}, up for {age(uptime)}", version=version, uptime=uptime)


@check("Redis", "Memory", "status")
def memory(system: System) -> Finding:
    used, limit = system.number("used_memory"), system.number("maxmemory")
    if not limit:
        return wrong(f"{size(used)}, without a limit", "deploy again", used=used, limit=0)
    share = percent(used, limit)
    evidence = f"{size(used)} of {size(limit)} ({share} %)"
    values = {"used": used, "limit": limit}
    if share >= HIGH:
        return (wrong if share >= FULL else warn)(evidence, DRAIN, **values)
    return ok(evidence, **values)


@check("Redis", "Clients", "status")
def clients(system: System) -> Finding:
    connected, most = system.number("connected_clients"), system.number("maxclients")
    evidence = f"{connected} of {most}"
    if percent(connected, most) >= 80:
        return warn(evidence, "who are they? redis-cli admin client list", connected=connected)
    return ok(evidence, connected=connected)


@check("Redis", "Keys", "status")
def keys(system: System) -> Finding:
    stored = system.info.get(f"db{system.settings['redis_database']}", "keys=0,expires=0")
    figures = dict(pair.split("=") for pair in stored.split(","))
    number, expiring = int(figures["keys"]), int(figures["expires"])
    evicted = system.number("evicted_keys")
    given_up = f"; {count(evicted, 'result')} given up for want of memory" if evicted else ""
    values = {"keys": number, "expiring": expiring, "evicted": evicted}
    return ok(f"{number}, of which {expiring} expire{given_up}", **values)


@check("Redis", "Snapshot", "status")
def snapshot(system: System) -> Finding:
    saved, status = system.number("rdb_last_save_time"), system.info["rdb_last_bgsave_status"]
    since, changes = int(time.time()) - saved, system.number("rdb_changes_since_last_save")
    evidence = f"{age(since)} ago, {count(changes, 'change')} since"
    if status != "ok":
        return wrong(f"the last one failed; {evidence}", LOOK_AT_DISK, age=since, status=status)
    return ok(evidence, age=since, status=status)


@check("Redis", "Append-only file", "status")
def append_only_file(system: System) -> Finding:
    if not system.number("aof_enabled"):
        return wrong("off: what came since the last snapshot can be lost", "deploy again")
    states = {"write": "aof_last_write_status", "rewrite": "aof_last_bgrewrite_status"}
    failed = [what for what, name in states.items() if system.info[name] != "ok"]
    length, waits = system.number("aof_current_size"), system.number("aof_delayed_fsync")
    values = {"size": length, "delayed_fsync": waits, "failed": failed}
    if failed:
        return wrong(f"the last {' and '.join(failed)} failed", LOOK_AT_DISK, **values)
    slow = f"; waited {count(waits, 'time')} for a slow disk" if waits else ""
    return ok(f"written and synced, {size(length)}{slow}", **values)
