"""Maintenance: the site shows its page, tasks wait and none is lost, until it is switched off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, in_app, pids, pyinfra, redis, send, wait_for
from tests.helpers.site import ask
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

# One that runs as maintenance begins, and one that waits for its time then.
BEFORE = """
from observations_nids.tasks import trace
trace.delay('maintenance-running', 12)
trace.apply_async(('maintenance-later',), countdown=25)
"""
MEANWHILE = """
from observations_nids.tasks import trace
for _ in range(20): trace.delay('maintenance-waiting')
"""


@pytest.fixture(scope="module", autouse=True)
def maintenance(pi: VirtualPi) -> Iterator[None]:
    """Switched on while tasks are there, and off in any case."""
    in_app(pi, BEFORE)
    wait_for("it runs", lambda: "start" in marks(pi, "running"))
    taken = ("hvals", "unacked")
    wait_for("the later one is taken", lambda: "maintenance-later" in redis(pi, *taken), 20)
    try:
        pi.run("celery-pi", "maintenance", "on", "--message", "Back at <noon> & not before")
        yield
    finally:
        pi.run("celery-pi", "maintenance", "off")
        pi.run("sh", "-c", f"rm -f {APP}/media/maintenance-*")


def marks(pi: VirtualPi, name: str) -> list[str]:
    """Starts and ends of the tasks of that name."""
    path = f"{APP}/media/maintenance-{name}"
    return [
        line.split()[1] for line in pi.run("sh", "-c", f"cat {path} || true").stdout.splitlines()
    ]


def closed(pi: VirtualPi) -> None:
    """The site shows the page, whatever is asked; but for Flower."""
    for path, method in (("/", "GET"), ("/any/page?of=it", "GET"), ("/form", "POST")):
        answer = ask(pi, path, method=method)
        assert answer.status == 503, path
        assert answer.headers["Retry-After"] == "300"
        assert "Back at &lt;noon&gt; &amp; not before" in answer.body
    assert ask(pi, "/flower/").status == 401
    assert ask(pi, "/celery-pi-maintenance.html").status == 404


def test_site_is_closed_and_what_ran_has_ended(pi: VirtualPi) -> None:
    assert marks(pi, "running") == ["start", "end"]
    closed(pi)
    pids(pi)


def test_tasks_wait_through_restart_deploy_and_reboot(pi: VirtualPi) -> None:
    in_app(pi, MEANWHILE)
    pi.run("systemctl", "restart", "celery-worker")
    for component in ("worker", "nginx"):
        deployed = pyinfra(pi, "--json", "-y", "inventory.py", f"tasks.{component}.deploy")
        assert deployed.changed == set()
    pi.reboot()
    wait_for("all are up", lambda: pids(pi), 120)
    closed(pi)
    assert int(redis(pi, "llen", "celery")) >= 21
    assert redis(pi, "exists", "unacked") == "0"
    assert marks(pi, "waiting") == marks(pi, "later") == []


def test_status_warns_and_the_proof_says_why_it_sends_nothing(pi: VirtualPi) -> None:
    status = pi.run("celery-pi", "status", check=False).stdout
    assert "no task is begun, the site shows a page" in status
    assert "celery-pi maintenance off" in status
    assert "not sent: maintenance is on" in pi.run("celery-pi", "prove").stdout
    assert pi.run("celery-pi", "maintenance").stdout == "on\n"


def test_switched_off_every_task_runs_once_and_the_site_is_back(pi: VirtualPi) -> None:
    pi.run("celery-pi", "maintenance", "off")
    assert ask(pi, "/").status == 302
    assert pi.run("celery-pi", "maintenance").stdout == "off\n"
    wait_for("they run", lambda: sorted(marks(pi, "waiting")) == ["end"] * 20 + ["start"] * 20, 60)
    wait_for("the later one runs", lambda: marks(pi, "later") == ["start", "end"], 60)
    assert send(pi, "add", 1, 2) == "3"
    assert "maintenance" not in pi.run("celery-pi", "status", check=False).stdout
