"""A worker, and what belongs to it, that somebody set up by hand: stopped warm, and put aside."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.before import DIRECTORY
from celery_pi.deploys import lock
from celery_pi.facts.handmade import CRON, UNITS, Found, described
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
def take_over(found: Sequence[Found], patience: int) -> Generator[StringCommand]:
    """None of it runs any more; what it was is in /var/lib/celery-pi/before.

    A worker has `patience` seconds to end its tasks, and gives back what it has not begun. Should
    this deploy end before `taken_over`, the Pi starts what was stopped again by itself.
    """
    if not found:
        host.noop("nothing was set up by hand")
        return
    units = [each for each in found if each.what == "unit"]
    units.sort(key=lambda each: ("beat", "flower", "worker", "other").index(each.detail))
    for each in units:
        will(host, "stop", each.name, f"a {each.detail}, warm", theirs=True)
    for each in found:
        will(host, "put aside", described(each), f"in {DIRECTORY}")
    values = assign(
        running=RUNNING,
        units=UNITS,
        before=DIRECTORY,
        directory=lock.DIRECTORY,
        lease=str(lock.LEASE + 10),
        guard=GUARD,
        watch=WATCH,
        patience=str(patience),
        taken=" ".join(f"{each.name}={each.detail}" for each in units),
        files=" ".join(each.name for each in found if each.what in ("dropin", "logrotate")),
        tables=" ".join(each.name for each in found if each.what == "cron"),
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
