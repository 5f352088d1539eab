"""A worker, and what belongs to it, that somebody set up by hand: stopped warm, and put aside."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.before import DIRECTORY
from celery_pi.deploys import lock
from celery_pi.facts.handmade import CRON, UNITS, HandmadeItem, described
from celery_pi.plan import will
from celery_pi.shell import assign, script

RUNNING = "/run/celery-pi/takeover"  # while it is there, what was stopped may come back
GUARD = "celery-pi-takeover.service"

TAKE = "set -e\n" + script("is_ours", "keep", "take_over")
WATCH = script("take_over_guard")


class TakingOver(FactBase[bool]):
    """Whether a take-over is on its way."""

    default = bool

    def command(self) -> StringCommand:
        return StringCommand("ls", RUNNING, "2>/dev/null || true")  # no is an answer

    def process(self, output: list[str]) -> bool:
        return bool(output)


@operation()
def take_over(items: Sequence[HandmadeItem], patience: int) -> Generator[StringCommand]:
    """None of it runs any more; what it was is in /var/lib/celery-pi/before.

    A worker has `patience` seconds to end its tasks, and gives back what it has not begun. Should
    this deploy end before `taken_over`, the Pi starts what was stopped again by itself.
    """
    if not items:
        host.noop("nothing was set up by hand")
        return
    units = [item for item in items if item.what == "unit"]
    units.sort(key=lambda item: ("beat", "flower", "worker", "other").index(item.detail))
    for item in units:
        will(host, "stop", item.name, f"a {item.detail}, warm", is_owners=True)
    for item in items:
        will(host, "put aside", described(item), f"in {DIRECTORY}")
    values = assign(
        running=RUNNING,
        units=UNITS,
        before=DIRECTORY,
        directory=lock.DIRECTORY,
        lease=str(lock.LEASE + 10),
        guard=GUARD,
        watch=WATCH,
        patience=str(patience),
        taken=" ".join(f"{item.name}={item.detail}" for item in units),
        files=" ".join(item.name for item in items if item.what in ("dropin", "logrotate")),
        tables=" ".join(item.name for item in items if item.what == "cron"),
        cron=CRON.replace("\\", "\\\\"),
    )
    yield StringCommand(values, TAKE)


@operation()
def taken_over(planned: bool) -> Generator[StringCommand]:
    """What took the place of the old worker is up; nothing goes back by itself any more."""
    if planned or host.get_fact(TakingOver):
        yield StringCommand(assign(running=RUNNING, guard=GUARD), 'rm -f "$running"')
    else:
        host.noop("no take-over is on its way")
