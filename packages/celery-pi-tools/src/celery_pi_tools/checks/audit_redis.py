"""Managed by celery-pi. Redis: who may do what, and what it was told to do."""

from __future__ import annotations

from celery_pi_checks.look import Look
from celery_pi_checks.registry import Result, check, ok, wrong

USERS = {"default", "celery", "backup", "monitor", "admin"}
LOOPBACK = {"127.0.0.1", "-::1", "::1"}
AGAIN = "deploy again"  # which sets it in the running server


@check("Redis", "Default user")
def default_user(look: Look) -> Result:
    # `monitor` may not: who sees the users sees the hashes of their passwords.
    found = look.ask("ACL", "GETUSER", "default", user="admin")
    told = dict(zip(found[::2], found[1::2], strict=True))
    off = "off" in told["flags"] and not told["passwords"]
    return ok("off, without a password") if off else wrong("can log in", AGAIN)


@check("Redis", "Users of Redis")
def users(look: Look) -> Result:
    found = set(look.ask("ACL", "USERS", user="admin"))
    wanted = USERS | ({"flower"} if look.settings["flower"] else set())
    strangers, missing = sorted(found - wanted), sorted(wanted - found)
    if strangers or missing:
        parts = [f"unknown: {', '.join(strangers)}"] if strangers else []
        parts += [f"missing: {', '.join(missing)}"] if missing else []
        return wrong("; ".join(parts), AGAIN, users=sorted(found))
    return ok(", ".join(sorted(found)), users=sorted(found))


@check("Redis", "Protected mode")
def protected_mode(look: Look) -> Result:
    return configured(look, "protected-mode", "yes")


@check("Redis", "Addresses")
def addresses(look: Look) -> Result:
    found = value(look, "bind")
    if set(found.split()) - LOOPBACK or not found:
        return wrong(found or "every address", "deploy again; systemctl restart redis-server")
    return ok(found)


@check("Redis", "Append-only file")
def append_only(look: Look) -> Result:
    return configured(look, "appendonly", "yes")


@check("Redis", "What goes when memory is full")
def policy(look: Look) -> Result:
    return configured(look, "maxmemory-policy", look.settings["redis_maxmemory_policy"])


def configured(look: Look, name: str, wanted: str) -> Result:
    found = value(look, name)
    return ok(found) if found == wanted else wrong(f"{found}, not {wanted}", AGAIN)


def value(look: Look, name: str) -> str:
    return str(look.ask("CONFIG", "GET", name)[1])
