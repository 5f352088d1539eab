"""What somebody set up by hand for this app: workers, and what would work against ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pyinfra.api import FactBase, StringCommand

from celery_pi.settings import Settings
from celery_pi.shell import assign, script

UNITS = "/etc/systemd/system"
OUR_NAMES = ("celery-worker.service", "celery-beat.service", "celery-flower.service")
CRON = r"redis-cli|dump\.rdb|redis.*backup|backup.*redis|bin/celery"  # of a line that is meant

SHOW = script("is_ours", "handmade")


class Found(NamedTuple):
    """What it is (a unit, a drop-in, a file of logrotate, a crontab or a process), its name or
    path, and of a unit what it runs, of a process its number."""

    what: str
    name: str
    detail: str


class HandMade(FactBase[list[Found]]):
    """What of this app was set up by somebody else, read in one command."""

    default = list

    def command(self, app: str) -> StringCommand:
        return StringCommand(
            assign(app=app, units=UNITS, names=" ".join(OUR_NAMES), cron=CRON), SHOW
        )

    def process(self, output: list[str]) -> list[Found]:
        found = [Found(*line.split(" ", 2)) for line in output]
        units = {each.name for each in found if each.what == "unit"} | set(OUR_NAMES)
        return [
            each
            for each in found
            if each.what != "process" or not (each.name in units or "celery-pi" in each.name)
        ]


def problems(found: Sequence[Found], settings: Settings) -> Iterator[str]:
    """A sentence for what keeps us from deploying beside it."""
    for each in found:
        if each.what == "process":
            yield (
                f"process {each.detail} ({each.name}) runs Celery for this app: stop it for good, "
                "and see that nothing starts it again"
            )
    listed = [described(each) for each in found if each.what != "process"]
    if listed and not settings.replace_handmade:
        yield (
            f"somebody has set up {', '.join(listed)} by hand: write replace_handmade = True to "
            "have that stopped, put aside in /var/lib/celery-pi/before and replaced"
        )


def described(found: Found) -> str:
    """It in a few words."""
    if found.what == "unit":
        return found.name if found.detail == "other" else f"{found.name} ({found.detail})"
    return found.name
