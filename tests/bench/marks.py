"""Tasks that leave marks, sent to a site; when they ran is read from there, not from Celery."""

from __future__ import annotations

from tests.faults.site import Site
from tests.helpers.harness import APP, wait_for

MEDIA = f"{APP}/media"
_HELD = "bench-held"  # a list that no worker reads


def send(site: Site, name: str, seconds: float, times: int = 1) -> None:
    """Send a task, or several, that takes so long and marks media/<name>."""
    sending = f"for _ in range({times}): mark.delay({name!r}, {seconds})"
    site.in_app(f"from observations_nids.tasks import mark\n{sending}")


def when(site: Site, name: str, event: str = "start") -> list[float]:
    """The times at which tasks that mark this file began, or came to their `end`."""
    shown = site.pi.run("cat", f"{MEDIA}/{name}", check=False).stdout
    marks = [line.split() for line in shown.splitlines()]
    return [float(at) for _, what, at, _ in marks if what == event]


def first(site: Site, name: str, event: str = "start", limit: float = 30) -> float:
    """The time of the first such mark; an assertion if there is none in time."""
    found: list[float] = wait_for(f"{event} of {name}", lambda: when(site, name, event), limit)
    return found[0]


def strike(site: Site, command: str) -> float:
    """Run a shell command on the machine; the time, of its clock, at which that began."""
    return float(site.pi.run("sh", "-c", f"date +%s.%N; {command}").stdout.split()[0])


def hold(site: Site, name: str, times: int) -> None:
    """Put tasks that mark media/<name> where no worker finds them, until they are let go."""
    site.ctl("stop", site.worker)
    send(site, name, 0, times)
    site.ask("rename", "celery", _HELD)
    site.ctl("start", site.worker)
    wait_for("the worker consumes", site.ready)


def letting_go(site: Site) -> str:
    """The shell command that puts one of them into the queue."""
    return " ".join((*site.cli, "lmove", _HELD, "celery", "right", "left"))
