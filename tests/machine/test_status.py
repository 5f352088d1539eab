"""`celery-pi status`: the right answer under load, with each service down, and quickly."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, ROOT, in_app, pids, redis, run, wait_for
from tests.helpers.status_output import CALM, ask, names, table
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

LOAD = """
from observations_nids.tasks import trace
trace.apply_async(("later",), countdown=3600)
for n in range(7):
    trace.delay("load", 3600)
"""
# What a unit that is down takes with it, beside itself.
TAKEN_ALONG = {"celery-worker": {"Workers"}}
REDIS_NEEDED = {
    *("Server", "Memory", "Clients", "Keys", "Snapshot", "Append-only file", "Queues"),
    *("Unacknowledged", "Active and scheduled", "Dead letters", "Workers"),
}
BOUND_TO_REDIS = {"redis-server", "redis-memory"}
VCGENCMD = "/usr/local/bin/vcgencmd"


@pytest.fixture(scope="module", autouse=True)
def _calm(pi: VirtualPi) -> Iterator[None]:
    """What another module's transient units have left is no concern of this one."""
    pi.run(*CALM)
    wait_for("all is well", lambda: ask(pi).status == 0, 90)
    yield
    assert ask(pi).status == 0


def start(pi: VirtualPi, *units: str) -> None:
    if units:
        pi.run("systemctl", "start", *units)
    wait_for("all is well", lambda: ask(pi).status == 0, 90)


def test_deployed_machine_is_well(pi: VirtualPi) -> None:
    told = ask(pi)
    assert (told.status, told.names("wrong")) == (0, set())
    assert told["Server"]["version"] in pi.run("redis-server", "--version").stdout
    assert told["Memory"]["limit"] == int(redis(pi, "config", "get", "maxmemory").split()[1])
    assert told["Workers"] == {"here": 1, "elsewhere": 0, "pool": 2}
    assert told["celery-worker"]["state"] == "active"


def test_table_says_the_same_as_the_json(pi: VirtualPi) -> None:
    told, shown = ask(pi), table(pi)
    assert shown.status == 0
    assert names(shown.text) == told.names("ok", "warn", "wrong")
    assert re.match(r"all is well|\d+ warn", shown.text.splitlines()[-1])


def test_answer_is_there_within_a_second(pi: VirtualPi) -> None:
    """The quickest of five, because other machines share this host's processors."""
    assert min(ask(pi).seconds for _ in range(5)) < 1.5


def test_tasks_that_wait_run_and_are_scheduled_are_counted(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "celery-beat")
    in_app(pi, LOAD)
    started = ("sh", "-c", f"cat {APP}/media/load 2>/dev/null | grep -c start || true")  # 0 so far
    wait_for("two run", lambda: pi.run(*started).stdout == "2\n", 90)
    wait_for("the later one is taken", lambda: redis(pi, "hlen", "unacked") == "3", 90)
    told = ask(pi)
    assert told["Queues"]["celery"] == int(redis(pi, "llen", "celery")) == 5
    assert told["Unacknowledged"]["number"] == 3
    assert told["Active and scheduled"] == {"active": 2, "scheduled": 1}
    assert told.names("wrong") == {"celery-beat"}
    # Told to stop first, so that systemd does not start what was killed.
    pi.run("systemctl", "stop", "--no-block", "celery-worker")
    pi.run("systemctl", "kill", "--signal=KILL", "celery-worker")
    pi.run("systemctl", "stop", "celery-worker")
    redis(pi, "del", "celery", "unacked", "unacked_index", "unacked_owner")
    pi.run("rm", "-f", f"{APP}/media/load")
    start(pi, "celery-worker", "celery-beat")


@pytest.mark.parametrize(
    "unit",
    [
        *("redis-memory", "celery-worker", "celery-beat", "celery-flower", "nginx"),
        "fail2ban",
    ],
)
def test_unit_that_is_down_is_named(pi: VirtualPi, unit: str) -> None:
    pi.run("systemctl", "stop", unit)
    told, shown = ask(pi), table(pi)
    start(pi, unit)
    assert told.status == shown.status == 1
    assert told.names("wrong") - {"Failed"} == {unit} | TAKEN_ALONG.get(unit, set())
    assert re.search(rf"WRONG  {unit} +\w+ \(\w+\)", shown.text)


def test_redis_that_is_down_is_told_and_hides_nothing_else(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "redis-server")
    told, shown = ask(pi), table(pi)
    start(pi, "redis-server")
    assert told.status == shown.status == 1
    assert told.names("wrong") - {"Failed"} == REDIS_NEEDED | BOUND_TO_REDIS
    assert "Redis does not answer" in shown.text
    assert {"celery-beat", "nginx", "Memory", "Disk of /"} <= told.names("ok", "warn")


def test_redis_that_hangs_is_told_in_time(pi: VirtualPi) -> None:
    pi.run("systemctl", "kill", "--signal=STOP", "redis-server")
    told = ask(pi)
    pi.run("systemctl", "kill", "--signal=CONT", "redis-server")
    assert told.status == 1
    assert told.names("wrong") >= REDIS_NEEDED
    assert told.seconds < 6
    start(pi)


def test_password_that_redis_does_not_take_is_told(pi: VirtualPi) -> None:
    secret = "/etc/celery-pi/secrets/redis_monitor_password"  # noqa: S105  its path
    pi.run("systemctl", "stop", "redis-memory")  # which needs it too
    pi.run("sh", "-c", f"cp -p {secret} /root/kept; echo wrong >{secret}")
    told, shown = ask(pi), table(pi)
    pi.run("mv", "/root/kept", secret)
    redis(pi, "acl", "log", "reset")
    start(pi, "redis-memory")
    assert told.status == 1
    assert "it does not take the stored password of its user monitor" in shown.text
    assert told.names("wrong") >= REDIS_NEEDED - {"Active and scheduled"}
    assert "Active and scheduled" in told.names("ok", "warn"), "admin's password is another"


def test_worker_that_lost_its_way_to_redis_is_told(pi: VirtualPi) -> None:
    """Its unit is up all the same."""
    pi.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "celery-worker")
    redis(pi, "client", "kill", "type", "pubsub")
    told = ask(pi)
    pi.run("systemctl", "kill", "--kill-whom=main", "--signal=CONT", "celery-worker")
    assert told["celery-worker"]["state"] == "active"
    assert "Workers" in told.names("wrong")
    start(pi)


def test_rest_of_the_machine_is_looked_at(pi: VirtualPi) -> None:
    pi.run("sh", "-c", f"printf '#!/bin/sh\\necho throttled=0x50005\\n' >{VCGENCMD}")
    pi.run("chmod", "0755", VCGENCMD)
    pi.run("systemd-run", "--quiet", "--unit=broken", "--wait", "false", check=False)
    pi.run("sh", "-c", "echo linux-image >/run/reboot-required.pkgs; touch /run/reboot-required")
    redis(pi, "lpush", "set-aside", "x")
    told, shown = ask(pi), table(pi)
    pi.run("rm", VCGENCMD, "/run/reboot-required", "/run/reboot-required.pkgs")
    pi.run("systemctl", "reset-failed", "broken")
    redis(pi, "del", "set-aside")
    assert told.status == 1
    assert told.names("wrong") == {"Power", "Failed", "Dead letters"}
    assert told["Power"]["now"] == ["under-voltage", "throttled"]
    assert told["Failed"]["units"] == ["broken.service"]
    assert "needed for linux-image" in shown.text
    assert "Restart" in told.names("warn")


def test_it_works_when_the_apps_environment_is_gone(pi: VirtualPi) -> None:
    pi.run("mv", f"{APP}/venv", f"{APP}/venv.away")
    told = ask(pi)
    pi.run("mv", f"{APP}/venv.away", f"{APP}/venv")
    assert told.status == 0


def test_it_says_when_it_could_not_look(pi: VirtualPi) -> None:
    settings = "/etc/celery-pi/settings.json"
    assert pi.run("celery-pi", "status", user="pi", check=False).returncode == 2
    pi.run("mv", settings, "/root/settings.json")
    done = pi.run("celery-pi", "status", check=False)
    pi.run("mv", "/root/settings.json", settings)
    assert done.returncode == 2
    assert f"{settings} cannot be read" in done.stderr
    assert done.stderr.count("\n") == 1


def test_reader_that_goes_away_is_no_fault(pi: VirtualPi) -> None:
    assert pi.run("sh", "-c", "celery-pi status | true").stderr == ""


def test_make_passes_the_verdict_on(pi: VirtualPi) -> None:
    """And the three commands that docs/operate/watch.md gives, in its words."""
    page = (ROOT / "docs/operate/watch.md").read_text()
    quick = dict(re.findall(r"^\| (start all|status|logs) \| `([^`]+)` \|$", page, re.MULTILINE))
    assert set(quick) == {"start all", "status", "logs"}
    pi.run("systemctl", "stop", "celery-beat", "celery-flower", "nginx")
    broken = run("make", "status", f"VIRTUAL_PI={pi.name}")
    assert broken.status != 0
    assert "WRONG  celery-beat" in broken.output
    pi.run("sh", "-c", quick["start all"])
    wait_for(
        "all is well", lambda: pi.run("sh", "-c", quick["status"], check=False).returncode == 0
    )
    pids(pi)
    assert run("make", "status", f"VIRTUAL_PI={pi.name}").status == 0
    logs = pi.run("sh", "-c", quick["logs"]).stdout
    assert "beat" in logs.lower()
