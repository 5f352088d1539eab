"""Managed by celery-pi. Redis: whether it is there, answers, knows its users and can write."""

from __future__ import annotations

from pathlib import Path

from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.checks.repairs import all_of
from celery_pi_tools.checks.units import ABOVE, REDIS, is_running
from celery_pi_tools.commands import CannotRead, execute
from celery_pi_tools.redis_client import SOCKET, Refused, login
from celery_pi_tools.system import System

ACL = Path("/etc/celery-pi/redis.acl")
PATIENCE = 1  # second that a login may take
BUSY = 10  # seconds for which a Redis on a slow card may be silent
STATUSES = {
    "the append-only file": "aof_last_write_status",
    "rewriting the append-only file": "aof_last_bgrewrite_status",
    "the snapshot": "rdb_last_bgsave_status",
}


@check("Units", REDIS, "status")
@check("Redis", "Redis is down", "doctor", after=ABOVE)
def down(system: System) -> Finding:
    return is_running(system, REDIS, "no task is accepted and none can be run")


@check("Redis", "Redis' socket is missing", "doctor", after=("Redis is down", *ABOVE))
def socket_missing(_: System) -> Finding | None:
    if Path(SOCKET).is_socket():
        return None
    return problem(
        f"{SOCKET} is missing, while Redis runs",
        "worker, Beat and Flower reach Redis by it",
        "start Redis again, which makes it; running tasks go on",
        lambda: execute("systemctl", "restart", REDIS),
        grace=2,
    )


@check(
    "Redis", "Redis does not answer", "doctor", after=("Redis is down", "Redis' socket is missing")
)
def silent(_: System) -> Finding | None:
    try:
        login("monitor", PATIENCE).ask("PING")
    except Refused as error:
        return busy() if str(error).startswith("BUSY") else None
    except OSError as error:
        return problem(
            f"no answer within {PATIENCE} s: {error.strerror or error}",
            "a long command, a disk that stands still or swap keeps it from everything else",
            "top -p $(pidof redis-server); iostat; redis-cli admin slowlog get; as the last resort "
            "systemctl kill -s KILL redis-server, which costs the last second",
            grace=BUSY,
        )
    return None


def busy() -> Finding:
    return problem(
        "it answers BUSY: a script runs for longer than it may",
        "it does nothing else meanwhile",
        "end the script, which Redis does only while that has written nothing (SCRIPT KILL)",
        lambda: login("admin", PATIENCE).ask("SCRIPT", "KILL"),
        grace=2,
    )


def users(system: System) -> list[str]:
    """Redis users whose password a deploy stores."""
    return [
        "celery",
        "backup",
        "monitor",
        *(["flower"] if system.settings["flower"] else []),
        "admin",
    ]


def refused(system: System) -> list[str]:
    """Users whose stored password Redis does not take."""
    names = []
    for user in users(system):
        try:
            login(user, PATIENCE)
        except Refused:
            names.append(user)
    return names


@check("Redis", "Redis refuses a password", "doctor", after=("Redis",))
def passwords(system: System) -> Finding | None:
    names = refused(system)
    if not names:
        return None
    symptom = f"it does not take the stored password of {', '.join(names)}"
    impact = "whoever connects anew as that user is refused: the site, a worker that is started"
    if "admin" in names:
        return problem(symptom, impact, "deploy again: nobody else may set it")
    return problem(
        symptom, impact, f"set the users as {ACL} has them", lambda: set_users(system.refresh())
    )


def set_users(system: System) -> None:
    """Sets each user as a deploy does; unlike ACL LOAD, this closes no connection."""
    for line in ACL.read_text().splitlines():
        if line.startswith("user "):
            name, *rules = line.split()[1:]
            system.ask("ACL", "SETUSER", name, "reset", *rules, user="admin")


@check("Redis", "Redis cannot write its data", "doctor", after=("Redis", *ABOVE))
def unwritten(system: System) -> Finding | None:
    failed = [what for what, name in STATUSES.items() if system.info[name] != "ok"]
    if not failed:
        return None
    return problem(
        f"the last try failed: {', '.join(failed)}",
        "it refuses every task until the next try succeeds (MISCONF)",
        "have it try again; if that fails, journalctl -u redis-server -n 50 says why",
        all_of(lambda: retry(system, "BGSAVE", "SCHEDULE"), lambda: retry(system, "BGREWRITEAOF")),
    )


def retry(system: System, *command: str) -> None:
    try:
        system.refresh().ask(*command, user="admin")
    except CannotRead as error:
        if "already in progress" not in str(error):  # somebody else has it try
            raise
