"""Every look at the site, in one call of preflight's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from pyinfra.api import StringCommand

from celery_pi.app_packages import locked
from celery_pi.facts.site_units import SiteUnits
from celery_pi.facts.ufw import FirewallState
from celery_pi.firewall_rules import opening
from celery_pi.operations.python_packages import environment
from celery_pi.preflight.apt import AptPlan, apt_problems, apt_warnings, needed_packages
from celery_pi.preflight.ask import asker
from celery_pi.preflight.checkers import OwnersChecks, checks_found, noted, rotation
from celery_pi.preflight.findings import Findings
from celery_pi.preflight.listeners import (
    cut_off,
    cut_off_warnings,
    redis_problems,
    tunnel_problems,
    web_problems,
)
from celery_pi.preflight.redis_clients import RedisUsers, users_warnings
from celery_pi.preflight.resolution import resolution_problems
from celery_pi.preflight.surroundings import (
    Surroundings,
    SurroundingsOf,
    filter_problems,
    ground_problems,
    web_servers_warnings,
)
from celery_pi.settings import Settings

if TYPE_CHECKING:
    from pyinfra.api.host import Host

WEB = ("80/tcp", "443/tcp")
TO_NOTE = "celery_pi_site_to_note"


def inspect_site(
    host: Host,
    settings: Settings,
    *,
    is_container: bool = False,
    doubtful: Collection[str] = (),
    aside: Sequence[str] = (),
) -> Findings:
    """What of the site a deploy with these settings could harm.

    `doubtful` are settings that are not known, about which there is no sentence; `aside` are
    files of the owner's that this deploy puts aside, which are not judged.
    """
    surroundings = host.get_fact(
        SurroundingsOf, port=settings.redis_port, tls=settings.redis_tls_port
    )
    plan = host.get_fact(AptPlan, packages=needed_packages(settings))
    users = host.get_fact(RedisUsers, app=settings.app_dir)
    site_units: list[str] = host.get_fact(SiteUnits, app=settings.app_dir)
    checks = host.get_fact(OwnersChecks, candidate=rotation(settings), aside=list(aside))
    checked = checks_found(checks, settings)
    firewall = _firewall(host, surroundings, settings) if settings.firewall else Findings([], [])
    problems = [
        *ground_problems(surroundings, settings, is_container),
        *redis_problems(surroundings.listeners, surroundings.units, settings),
        *web_problems(surroundings.listeners, surroundings.enabled, settings),
        *firewall.problems,
        *apt_problems(plan),
        *checked.problems,
        *_packages(host, settings, doubtful),
    ]
    warnings = [
        *web_servers_warnings(surroundings, settings),
        *firewall.warnings,
        *apt_warnings(plan),
        *checked.warnings,
        *users_warnings(users, settings, settings.app_units or site_units),
    ]
    is_good = not (checked.problems or checked.warnings)
    host.connector_data[TO_NOTE] = (noted(settings), checks.good) if is_good else None
    return Findings(problems, warnings)


def to_note(host: Host, has_changed: bool) -> StringCommand | None:
    """Command by which the machine remembers, after a deploy that went well, that the owner's
    configurations are good; none where they were not, or where it remembers that already."""
    note, is_known = host.connector_data.get(TO_NOTE) or (None, True)
    return note if has_changed or not is_known else None


def _firewall(host: Host, surroundings: Surroundings, settings: Settings) -> Findings:
    now = host.get_fact(FirewallState)
    openings = [opening(text) for text in (*WEB, *settings.firewall_allow)]
    cut = cut_off(surroundings.listeners, openings, now, settings.firewall_only_ours)
    problems = [
        *filter_problems(surroundings, now),
        *tunnel_problems(cut, surroundings.tunnels, surroundings.wireguard, now),
    ]
    return Findings(problems, list(cut_off_warnings(cut)))


def _packages(host: Host, settings: Settings, doubtful: Collection[str]) -> Iterator[str]:
    if {"app_dir", "app_pins", "app_requirements"} & set(doubtful):
        return
    requirements = f"{settings.app_dir}/{settings.app_requirements}"
    now = environment(settings.app_venv, requirements)
    ours = locked() if settings.app_pins == Settings().app_pins else ()
    yield from resolution_problems(
        asker(host), now, settings.app_venv, settings.app_pins, requirements, ours
    )
