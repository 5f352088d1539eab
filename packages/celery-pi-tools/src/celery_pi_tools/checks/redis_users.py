"""Managed by celery-pi. Redis: its users, and who fails to log in."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from celery_pi_tools import redis_client
from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.system import System
from celery_pi_tools.table import count

EARLIER = "redis_earlier_users"  # lines of an ACL
USERS = {"default", "celery", "backup", "monitor", "admin"}
DAY = 86400  # seconds
CHANGE = 600  # seconds that a change of passwords takes, in which ours are tried, new and old
WHO_FAILS = (
    "which program has an old password? redis-cli admin acl log; what is seen to: acl log reset"
)
AGAIN = "deploy again"


@check("Redis", "Default user", "audit")
def default_user(system: System) -> Finding:
    # `monitor` may not: who sees the users sees the hashes of their passwords.
    reply = system.ask("ACL", "GETUSER", "default", user="admin")
    user = dict(zip(reply[::2], reply[1::2], strict=True))
    off = "off" in user["flags"] and not user["passwords"]
    return ok("off, without a password") if off else wrong("can log in", AGAIN)


@check("Redis", "Users of Redis", "audit")
def users(system: System) -> Finding:
    names = set(system.ask("ACL", "USERS", user="admin"))
    earlier = earlier_users() & names
    expected = USERS | ({"flower"} if system.settings["flower"] else set())
    strangers, missing = sorted(names - expected - earlier), sorted(expected - names)
    if strangers or missing:
        parts = [f"unknown: {', '.join(strangers)}"] if strangers else []
        parts += [f"missing: {', '.join(missing)}"] if missing else []
        return wrong("; ".join(parts), AGAIN, users=sorted(names))
    evidence = ", ".join(sorted(names - earlier))
    if earlier:
        evidence += f"; from before the first deploy: {', '.join(sorted(earlier))}"
    return ok(evidence, users=sorted(names), earlier=sorted(earlier))


def earlier_users() -> set[str]:
    """Those that a deploy has found in Redis and has kept."""
    file = Path(redis_client.SECRETS, EARLIER)
    lines = file.read_text().split("\n") if file.exists() else []
    return {line.split(" ")[1] for line in lines if line.startswith("user ")} - USERS


@check("Redis", "Failed logins", "audit")
def failed_logins(system: System) -> Finding:
    """Of the last day, and since Redis was started. Redis itself logs none.

    An entry of ACL LOG holds all tries of one name within a minute, and the age of the last. A name
    that no user has may be a password, so it is not shown. What is tried while a password changes,
    `CHANGE` seconds from the new one on, is not counted.
    """
    tries: Counter[str] = Counter()
    for entry in system.acl_log:
        name, ago = entry["username"], float(entry["age-seconds"])
        known = name in USERS | {"flower"}
        if entry["reason"] != "auth" or ago >= DAY or (known and changed_then(name, ago)):
            continue
        tries[name if known else "another name"] += int(entry["count"])
    if not tries:
        return ok("none within a day", failed={})
    named = ", ".join(f"{number} as {name}" for name, number in tries.most_common())
    evidence = f"{count(tries.total(), 'try', 'tries')} within a day: {named}"
    return warn(evidence, WHO_FAILS, failed=dict(tries))


def changed_then(user: str, ago: float) -> bool:
    """Whether the stored password of that user was changing so many seconds ago."""
    file = Path(redis_client.SECRETS, f"redis_{user}_password")
    if not file.exists():  # as of `default`
        return False
    return 0 <= time.time() - ago - file.stat().st_mtime < CHANGE
