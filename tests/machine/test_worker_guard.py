"""Guarded or plain on the machine: a set of versions that nobody has tried, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from celery_pi.settings import Settings
from celery_redis_guard.mode import NOT_PROMISED
from tests.helpers.harness import APP, deploy, in_app, pids, plan, redis, restarts, send, wait_for
from tests.helpers.status_output import CALM, ask, table
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

# A version that exists, beside those of ours; and one that does not, by celery's own metadata.
OTHER = ",".join(
    "billiard==4.3.1" if pin.startswith("billiard") else pin for pin in Settings().app_pins
)
METADATA = f"{APP}/venv/lib/python3*/site-packages/celery-[0-9]*.dist-info/METADATA"
CHOICE = "/etc/systemd/system/celery-worker.service.d/zz-test.conf"
PLAIN = "plain Celery, because no tested set is"
WATCHDOG = 30  # seconds, WatchdogSec= of the worker's unit
POOL = """
import observations_nids.celery
from celery import current_app
(conf,) = current_app.control.inspect(timeout=3).conf(with_defaults=True).values()
print(conf["worker_pool"])
"""


def pool(pi: VirtualPi) -> str:
    """What the worker says that it runs, when asked as Flower asks it."""
    return in_app(pi, POOL)


def told(pi: VirtualPi) -> str:
    """What the worker has told systemd."""
    return pi.run("systemctl", "show", "-P", "StatusText", "celery-worker").stdout


def ticks(pi: VirtualPi) -> int:
    return len(pi.run("cat", f"{APP}/media/ticks").stdout.splitlines())


@pytest.fixture(scope="module")
def plain(pi: VirtualPi) -> Iterator[str]:
    """What the plan and the deploy of the other set have said; ours is deployed again."""
    pi.run(*CALM)
    redis(pi, "acl", "log", "reset")
    planned = plan(pi, app_pins=OTHER)
    deployed = deploy(pi, app_pins=OTHER)
    assert (planned.status, deployed.status) == (0, 0), deployed.output
    try:
        yield f"{planned.output}\n---\n{deployed.output}"
    finally:
        assert deploy(pi).status == 0
        pi.run("sh", "-c", "rm -f /var/lib/celery-beat/schedule.plain*")


def test_deployed_worker_is_guarded(pi: VirtualPi) -> None:
    assert told(pi).startswith("guarded: tested set C")
    assert pool(pi) == "celeryredisguard:TaskPool"
    assert ask(pi)["Guard"] == {"guarded": True, "setting": "auto"}


def test_plan_and_deploy_say_so_and_the_next_one_too(pi: VirtualPi, plain: str) -> None:
    for said in (*plain.split("\n---\n"), plan(pi, app_pins=OTHER).output):
        assert f"the worker will be {PLAIN}" in said
        assert NOT_PROMISED in said


def test_second_deploy_changes_nothing(pi: VirtualPi, plain: str) -> None:
    assert plain
    assert deploy(pi, app_pins=OTHER).changed == set()


def test_worker_is_plain_and_runs_tasks(pi: VirtualPi, plain: str) -> None:
    assert plain
    assert pool(pi) == "prefork"
    assert json.loads(send(pi, "add", 40, 2)) == 42
    proved = pi.run("celery-pi", "smoke-test").stdout
    assert "SUCCESS" in proved


@pytest.mark.parametrize("command", ["status", "audit"])
def test_status_and_audit_say_it_with_what_is_not_promised(
    pi: VirtualPi, plain: str, command: str
) -> None:
    assert plain
    shown = " ".join(table(pi, command).text.split())
    assert PLAIN in shown
    assert NOT_PROMISED in shown
    answer = ask(pi, command)
    assert "Guard" in answer.names("warn")
    assert answer["Guard"] == {"guarded": False, "setting": "auto"}


def test_check_says_it_and_passes(pi: VirtualPi, plain: str) -> None:
    assert plain
    done = pi.run("celery-pi", "check")
    assert PLAIN in done.stderr


def test_watchdog_flower_beat_and_access_list_have_nothing_against_it(
    pi: VirtualPi, plain: str
) -> None:
    assert plain
    before, ticked = pids(pi), ticks(pi)
    time.sleep(WATCHDOG + 10)
    assert pids(pi) == before
    assert restarts(pi) == 0
    assert ticks(pi) > ticked
    assert ask(pi)["Workers"] == {"here": 1, "elsewhere": 0, "pool": 2}
    pi.run("systemctl", "restart", "redis-server")
    wait_for("it is back", lambda: json.loads(send(pi, "add", 1, 2)) == 3, 90)
    assert pids(pi)["celery-worker"] == before["celery-worker"]
    wait_for("it tells that it lives", lambda: ask(pi)["Workers"]["here"] == 1, 30)
    assert redis(pi, "acl", "log") == ""


def test_maintenance_holds_for_a_plain_worker(pi: VirtualPi, plain: str) -> None:
    assert plain
    pi.run("celery-pi", "maintenance", "on")
    try:
        code = "from observations_nids.tasks import add; print(add.delay(1, 1).id)"
        task = in_app(pi, code)
        time.sleep(5)
        assert "SUCCESS" not in redis(pi, "get", f"celery-task-meta-{task}")
    finally:
        pi.run("celery-pi", "maintenance", "off")
    done = ("get", f"celery-task-meta-{task}")
    wait_for("it is run", lambda: "SUCCESS" in redis(pi, *done), 90)


def test_own_set_is_guarded_again(pi: VirtualPi, plain: str) -> None:
    assert plain
    back = deploy(pi)
    assert back.status == 0
    assert "plain Celery" not in back.output
    assert pool(pi) == "celeryredisguard:TaskPool"
    assert ask(pi)["Guard"] == {"guarded": True, "setting": "auto"}
    assert "SUCCESS" in pi.run("celery-pi", "smoke-test").stdout


@pytest.fixture
def upgraded(pi: VirtualPi) -> Iterator[None]:
    """Somebody has upgraded Celery between two deploys: an artificial version."""
    pi.run("sh", "-c", f"cp -p {METADATA} /tmp/metadata")
    pi.run("sh", "-c", f"sed -i 's/^Version: .*/Version: 99.0.0/' {METADATA}")
    try:
        yield
    finally:
        pi.run("sh", "-c", f"cp -p /tmp/metadata {METADATA}; rm -f {CHOICE} /tmp/metadata")
        pi.run("systemctl", "daemon-reload")
        pi.run("systemctl", "restart", "celery-worker", "celery-beat")
        pi.run("sh", "-c", "rm -f /var/lib/celery-beat/schedule.plain*")


@pytest.mark.usefixtures("upgraded")
def test_upgrade_between_two_deploys_leaves_a_worker_and_without_the_choice_it_would_be_guarded(
    pi: VirtualPi,
) -> None:
    pi.run("systemctl", "restart", "celery-worker", "celery-beat")
    assert told(pi).startswith(f"{PLAIN} celery 99.0.0")
    assert json.loads(send(pi, "add", 40, 2)) == 42
    journal = pi.run("journalctl", "-u", "celery-worker", "-n", "60", "-o", "cat").stdout
    assert f"celery-pi: {PLAIN} celery 99.0.0" in journal
    # The control: as it was before, whatever is installed.
    text = "[Service]\\nEnvironment=CELERY_PI_WORKER_GUARD=on\\n"
    pi.run("sh", "-c", f"printf '{text}' >{CHOICE}")
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "restart", "celery-worker")
    assert pool(pi) == "celeryredisguard:TaskPool"
