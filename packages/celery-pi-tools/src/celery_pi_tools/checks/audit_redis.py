"""Managed by celery-pi. Redis: its users, and the settings that protect its data."""

from __future__ import annotations

from celery_pi_tools.checks.registry import Result, check, ok, wrong
from celery_pi_tools.system import System

USERS = {"default", "celery", "backup", "monitor", "admin"}
LOOPBACK = {"127.0.0.1", "-::1", "::1"}
AGAIN = "deploy again"  # which sets it in the running server


@check("Redis", "Default user")
def default_user(system: System) -> Result:
    # `monitor` may not: who sees the users sees the hashes of their passwords.
    found = system.ask("ACL", "GETUSER", "default", user="admin")
    user = dict(zip(found[::2], found[1::2], strict=True))
    off = "off" in user["flags"] and not user["passwords"]
    return ok("off, without a password") if off else wrong("can log in", AGAIN)


@check("Redis", "Users of Redis")
def users(system: System) -> Result:
    found = set(system.ask("ACL", "USERS", user="admin"))
    wanted = USERS | ({"flower"} if system.settings["flower"] else set())
    strangers, missing = sorted(found - wanted), sorted(wanted - found)
    if strangers or missing:
        parts = [f"unknown: {', '.join(strangers)}"] if strangers else []
        parts += [f"missing: {', '.join(missing)}"] if missing else []
        return wrong("; ".join(parts), AGAIN, users=sorted(found))
    return ok(", ".join(sorted(found)), users=sorted(found))


@check("Redis", "Protected mode")
def protected_mode(system: System) -> Result:
    return configured(system, "protected-mode", "yes")


@check("Redis", "Addresses")
def addresses(system: System) -> Result:
    found = value(system, "bind")
    if set(found.split()) - LOOPBACK or not found:
        return wrong(found or "every address", "deploy again; systemctl restart redis-server")
    return ok(found)


@check("Redis", "Append-only file")
def append_only(system: System) -> Result:
    return configured(system, "appendonly", "yes")


@check("Redis", "What goes when memory is full")
def policy(system: System) -> Result:
    return configured(system, "maxmemory-policy", system.settings["redis_maxmemory_policy"])


def configured(system: System, name: str, wanted: str) -> Result:
    found = value(system, name)
    return ok(found) if found == wanted else wrong(f"{found}, not {wanted}", AGAIN)


def value(system: System, name: str) -> str:
    return str(system.ask("CONFIG", "GET", name)[1])
