"""One changed setting restarts the services that read it, and no other."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.helpers.harness import ROOT, deploy, pids, plan, prove, redis, wait_for
from tests.helpers.status_output import reason
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.debian12

ALL = {"redis-server", "celery-worker", "celery-beat"}


@pytest.fixture(scope="module")
def settings(pi: VirtualPi) -> Iterator[dict[str, object]]:
    """What has been set so far: each test sets one more, so that only that one changes."""
    yield {}
    assert deploy(pi).status == 0


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("redis_maxmemory", "128mb", set()),
        ("redis_loglevel", "verbose", set()),
        ("celery_concurrency", 1, {"celery-worker"}),
        ("beat_max_interval", 30, {"celery-beat"}),
        ("redis_database", 3, {"celery-worker", "celery-beat"}),
        ("redis_port", 7000, ALL),
    ],
)
def test_setting_restarts_exactly_its_readers(
    pi: VirtualPi,
    settings: dict[str, object],
    setting: str,
    value: object,
    expected: set[str],
) -> None:
    before = pids(pi)
    settings[setting] = value
    announced = plan(pi, **settings).planned
    if setting == "redis_port":
        assert announced == documented()
    assert deploy(pi, **settings).changed == announced
    after = pids(pi)
    assert {unit for unit in ALL if before[unit] != after[unit]} == expected


def documented() -> set[str]:
    """What changes with the port, as the example of a record has it."""
    found = re.search("changed: (.*)", (ROOT / "docs/operate/deploy.md").read_text())
    assert found
    return set(found[1].split(", "))


def test_services_run_with_the_new_values(pi: VirtualPi, settings: dict[str, object]) -> None:
    assert redis(pi, "config", "get", "maxmemory").split() == ["maxmemory", str(128 * 2**20)]
    assert redis(pi, "config", "get", "loglevel").split() == ["loglevel", "verbose"]
    assert "SUCCESS" in prove(pi)
    assert int(redis(pi, "-n", "3", "dbsize")) > 0
    assert settings["redis_port"] == 7000
    assert pi.run("ss", "-Htln", "sport = :7000").stdout
    assert not pi.run("ss", "-Htln", "sport = :6379").stdout


def test_status_has_the_reason_of_the_last_restart(pi: VirtualPi) -> None:
    by_deploy = reason(pi, "celery-worker")
    assert re.match(r"deploy \d+: /.* (will change|changed since it was started)$", by_deploy)
    assert reason(pi, "celery-beat").startswith("deploy ")
    time.sleep(3)  # what is within a second of a deploy counts as its work
    pi.run("systemctl", "restart", "celery-beat")
    assert reason(pi, "celery-beat") == "a command (systemctl)"
    kill(pi, "KILL")
    assert reason(pi, "celery-worker").startswith("systemd: Main process exited, code=killed")
    kill(pi, "STOP")
    assert reason(pi, "celery-worker") == "the watchdog: it did not answer in time"
    assert reason(pi, "celery-beat") == "a command (systemctl)"


def kill(pi: VirtualPi, signal: str) -> None:
    """Have systemd start the worker again for that signal to it."""
    before = pids(pi)["celery-worker"]
    pi.run("systemctl", "kill", "--kill-whom=main", f"--signal={signal}", "celery-worker")
    wait_for("a new worker", lambda: pids(pi).get("celery-worker", before) != before, 120)
    assert "SUCCESS" in prove(pi)
