"""The plan on a machine: its first screen tells the owner what happens to his things."""

from __future__ import annotations

import re

import pytest

from tests.helpers.harness import APP, Outcome, fingerprint, pyinfra, run
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

LIBRARY = "/usr/local/lib/celery-pi/"
SCREEN = 40  # lines


def make_plan(pi: VirtualPi, **given: str) -> Outcome:
    named = (f"VIRTUAL_PI={pi.name}", f"PLATFORM={pi.platform}", f"RELEASE={pi.release}")
    outcome = run("make", "plan", *named, *(f"{name}={value}" for name, value in given.items()))
    assert outcome.status == 0, outcome.output
    return outcome


def planned(pi: VirtualPi, *options: str) -> str:
    outcome = pyinfra(pi, "--dry", *options, "inventory.py", "deploy.py")
    assert outcome.status == 0, outcome.output
    return outcome.output


def said(output: str) -> dict[str, str]:
    """What stands behind each `Would`, its lines joined."""
    rows: dict[str, str] = {}
    label = ""
    for line in output.splitlines():
        if found := re.fullmatch(r" {4}(Would [a-z ]+): +(.*)", line):
            label = found[1]
            rows[label] = found[2]
        elif label and line.startswith(" " * 12):
            rows[label] += f" {line.strip()}"
        else:
            label = ""
    return rows


def test_first_plan_tells_on_its_first_screen_what_happens_to_the_machine(
    fresh_native_pi: VirtualPi,
) -> None:
    before = fingerprint(fresh_native_pi)
    output = make_plan(fresh_native_pi).output
    lines = output.splitlines()
    assert len(lines) < 400
    told = said("\n".join(lines[:SCREEN]))
    assert {"redis-server", "nginx", "ufw"} <= set(told["Would install"].split(", "))
    assert "celery-worker.service" in told["Would start"]
    assert told["Would open"] == "22/tcp, 80/tcp, 443/tcp"
    assert told["Would close"] == "every other port"
    assert told["Would change"].startswith(f"{APP}/.env (yours: adds CELERY_BROKER_URL")
    assert not told.keys() & {"Would stop", "Would remove", "Would replace"}
    assert any(line.strip().startswith("Nothing of yours is") for line in lines[:SCREEN])
    assert "Will create" not in output
    assert re.search(r"and \d{3} files of celery-pi's own \(make plan FULL=1 shows them\)", output)
    assert not re.search(r"redis://|[0-9a-f]{64}", output), "a secret, or a digest of one"
    assert fingerprint(fresh_native_pi) == before


def test_full_plan_begins_with_the_same_and_shows_our_files(fresh_native_pi: VirtualPi) -> None:
    short, full = make_plan(fresh_native_pi).output, make_plan(fresh_native_pi, FULL="1").output
    assert said("\n".join(full.splitlines()[:SCREEN])) == said(short)
    assert full.count(f"Will create {LIBRARY}") > 50
    assert "+ port 6379" in full
    assert "FULL=1" not in full


def test_plan_names_what_of_the_owners_it_would_stop_or_take_away(
    fresh_native_pi: VirtualPi,
) -> None:
    """A server of his that runs, and one that would start anew because of its files."""
    unit = "/etc/systemd/system/redis-memory.service"
    text = "[Service]\nExecStart=/bin/sleep infinity\n"
    start = f"cat >{unit}; systemctl daemon-reload; systemctl start redis-memory"
    fresh_native_pi.run("sh", "-c", start, input=text.encode())
    output = planned(fresh_native_pi, "--diff")
    stop = f"systemctl stop redis-memory; rm {unit}; systemctl daemon-reload"
    fresh_native_pi.run("sh", "-c", stop)
    told = said(output)
    assert "redis-memory.service (yours: " in told["Would restart"]
    assert unit in told["Would change"] + told.get("Would replace", "")
    assert "- ExecStart=/bin/sleep infinity" in output, "his file, in the diff"
    assert "Nothing of yours is" not in output


def test_plan_of_a_settled_machine_says_that_nothing_would_change(pi: VirtualPi) -> None:
    output = planned(pi, "--diff")
    assert "Nothing would change." in output
    assert "Would " not in output
    assert "Will " not in output


def test_plan_of_a_changed_port_names_what_restarts_and_no_secret(pi: VirtualPi) -> None:
    output = planned(pi, "--diff", "--data", "redis_port=7000")
    told = said(output)
    restarted = {"redis-server.service", "celery-worker.service", "celery-beat.service"}
    assert set(told["Would restart"].split(", ")) == restarted
    assert told["Would change"].startswith(f"{APP}/.env (yours: sets CELERY_BROKER_URL ")
    assert "/etc/celery-pi/redis.conf" in told["Would change"]
    files = "for f in /etc/celery-pi/secrets/*; do cat $f; echo; done"
    secrets = [line.rpartition(":")[2] for line in pi.run("sh", "-c", files).stdout.split()]
    assert len(secrets) >= 5
    assert not any(secret in output for secret in secrets)


def test_run_says_it_too_before_it_changes_anything(pi: VirtualPi) -> None:
    pi.run("rm", "/etc/logrotate.d/celery-pi")
    component = ("inventory.py", "tasks.logs.deploy")
    done = pyinfra(pi, "--json", "-y", *component)
    assert done.changed == {"Logs | Configure"}
    told, _, after = done.stderr.partition("--> Beginning operation run")
    assert "and 1 file of celery-pi's own" in told
    assert after
    again = pyinfra(pi, "--json", "-y", *component)
    assert again.changed == set()
    assert "Nothing will change." in again.stderr


def test_record_of_a_deploy_holds_what_its_plan_has_told_and_why(pi: VirtualPi) -> None:
    file = "/etc/systemd/journald.conf.d/celery-pi.conf"
    pi.run("sh", "-c", f"echo '# by hand' >>{file}")
    assert pyinfra(pi, "-y", "inventory.py", "tasks.logs.deploy").status == 0
    shown = pi.run("celery-pi", "deploys").stdout.splitlines()
    assert shown[-2:] == [
        f"      restart: systemd-journald.service ({file} changed since it was started)",
        f"      change: {file}",
    ]


def test_component_that_is_switched_off_is_stopped_and_that_is_said(pi: VirtualPi) -> None:
    told = said(planned(pi, "--data", "flower=false"))
    assert "celery-flower.service" in told["Would stop"]
    assert "yours" not in told["Would stop"]
    assert "/etc/celery-pi/flower.env" in told["Would remove"]
    assert "the user celery-flower" in told["Would remove"]
