"""Managed by celery-pi. Certificates that end soon, although they are renewed in time elsewhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from celery_pi_tools.checks.registry import Finding, check, problem
from celery_pi_tools.checks.repairs import all_of
from celery_pi_tools.commands import execute
from celery_pi_tools.config import LIBRARY
from celery_pi_tools.privileges import Failed
from celery_pi_tools.system import System

SOON = 14 * 86400  # seconds; ours are renewed 30 days before their end
PATIENCE = 10  # seconds
SITE = "/etc/celery-pi/site.pem"
REDIS = ("/etc/celery-pi/tls/redis.pem", "/etc/celery-pi/tls/ca.crt")


@check("Certificates", "A certificate ends soon", "doctor", after=("The clock is wrong",))
def ends(system: System) -> Finding | None:
    ending = [path for path in served(system) if Path(path).exists() and ends_soon(path)]
    if not ending:
        return None
    symptom = f"within two weeks: {', '.join(ending)}"
    impact = "after that browsers and clients refuse the connection"
    fixes = [fix for fix in map(renewal, ending) if fix]
    if len(fixes) < len(ending):
        return problem(
            symptom, impact, "renew it where you had it made; certbot renew, if it is certbot's"
        )
    return problem(symptom, impact, "make a new one and have it served", all_of(*fixes))


def served(system: System) -> list[str]:
    own = system.settings["nginx_certificate"] or SITE
    site = [own] if system.settings["flower"] and system.settings["nginx_server"] else []
    return [*site, *(REDIS if system.settings["redis_tls"] else ())]


def ends_soon(path: str) -> bool:
    """Whether it ends within SOON, or is no certificate."""
    command = ("openssl", "x509", "-noout", "-checkend", str(SOON), "-in", path)
    try:
        execute(*command, timeout=PATIENCE)
    except Failed:
        return True
    return False


def renewal(path: str) -> partial[None] | None:
    """The repair that makes a new one; None for one of the owner's."""
    if path == SITE:
        return partial(renew, f"{LIBRARY}/nginx-certificate", "reload", "nginx")
    if path in REDIS:
        return partial(renew, "true", "start", "redis-certificates")
    return None


def renew(program: str, *then: str) -> None:
    execute(program)
    execute("systemctl", *then)
