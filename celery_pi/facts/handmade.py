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

SHOW = script("is_ours", "is_of_app", "handmade")


class HandmadeItem(NamedTuple):
    """What it is (a unit, a drop-in, a file of logrotate, a crontab or a process), its name or
    path, and of a unit what it runs, of a process its number."""

    what: str
    name: str
    detail: str


class HandMade(FactBase[list[HandmadeItem]]):
    """What of this app was set up by somebody else, read in one command."""

    default = list

    def command(self, app: str) -> StringCommand:
        return StringCommand(
            assign(app=app, units=UNITS, names=" ".join(OUR_NAMES), cron=CRON), SHOW
        )

    def process(self, output: list[str]) -> list[HandmadeItem]:
        items = [HandmadeItem(*line.split(" ", 2)) for line in output]
        units = {item.name for item in items if item.what == "unit"} | set(OUR_NAMES)
        return [
            item
            for item in items
            if item.what != "process" or not (item.name in units or "celery-pi" in item.name)
        ]


def problems(items: Sequence[HandmadeItem], settings: Settings) -> Iterator[str]:
    """A sentence for what keeps us from deploying beside it."""
    for item in items:
        if item.what == "process":
            yield (
                f"process {item.detail} ({item.name}) runs Celery for this app: stop it for good, "
                "and see that nothing starts it again"
            )
    names = [described(item) for item in items if item.what != "process"]
    if names and not settings.replace_handmade:
        yield (
            f"somebody has set up {', '.join(names)} by hand: write replace_handmade = True to "
            "have that stopped, put aside in /var/lib/celery-pi/before and replaced"
        )


def described(item: HandmadeItem) -> str:
    """It in a few words."""
    if item.what == "unit":
        return item.name if item.detail == "other" else f"{item.name} ({item.detail})"
    return item.name
