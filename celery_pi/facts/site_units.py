"""The site's own units: those whose processes have read `.env`, and send tasks by it."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api import FactBase, StringCommand

from celery_pi.facts.handmade import UNITS
from celery_pi.shell import assign, script

SHOW = script("is_ours", "site_units")


class SiteUnits(FactBase[list[str]]):
    """Names of the units, read in one command."""

    default = list

    def command(self, app: str) -> StringCommand:
        return StringCommand(assign(app=app, units=UNITS), SHOW)

    def process(self, output: list[str]) -> list[str]:
        return output


def reloads(unit: str) -> bool:
    """Whether the unit, told to reload, starts the site's processes anew and serves on meanwhile:
    Apache's graceful restart starts mod_wsgi's too (httpd.apache.org/docs/2.4/stopping.html)."""
    return unit == "apache2.service"


def chosen(configured: Sequence[str] | None, detected: Sequence[str]) -> tuple[str, ...] | None:
    """What the owner has named, else what was found; None where nothing is known."""
    return tuple(configured) if configured is not None else tuple(detected) or None
