"""The stand-in for the real project, with nothing of ours on it: it serves people."""

from __future__ import annotations

import json
import time

import pytest

from tests.helpers.harness import wait_for
from tests.sites.build import APP, SECRETS, Run, Site
from tests.sites.client import Client
from tests.sites.hunt import hunt
from tests.sites.picture import compare, take

pytestmark = pytest.mark.native

UNITS = ("apache2", "mariadb", "redis-server", "celery-worker", "celery-beat", "celery-flower")
OTHERS = ("fail2ban", "ufw", "cron")


def test_all_of_the_owners_units_run(site: Site) -> None:
    told = site.pi.run("systemctl", "is-active", *UNITS, *OTHERS).stdout.split()

    assert told == ["active"] * len((*UNITS, *OTHERS))


def test_the_packages_are_those_that_its_owner_requires(site: Site) -> None:
    names = ("celery", "kombu", "redis", "django-celery-results")
    code = f"from importlib.metadata import version; print(*map(version, {names!r}))"

    told = site.pi.run(f"{APP}/.venv/bin/python", "-I", "-c", code).stdout.split()

    assert told == ["5.6.0", "5.6.1", "7.1.0", "2.6.0"]


def test_the_site_answers_and_a_task_that_it_sends_writes_its_rows(site: Site) -> None:
    assert site.ask("/") == (200, "Observations Nids\n")
    assert site.ask("/", tls=True) == (200, "Observations Nids\n")

    task = json.loads(site.ask("/send?task=row&seconds=1")[1])["id"]

    wait_for("the task", lambda: site.runs().get(task) == Run(1, 1))
    assert site.rows()[task] == 2


def test_nobody_loses_a_task_while_nothing_is_done(site: Site) -> None:
    before = take(site.pi)
    client = Client(site)
    client.start()
    waiting = client.send("slow", 10, 0.5)

    time.sleep(10)
    told = client.stop()

    assert told.troubles == {}, told
    assert len(told.sent) >= 10
    assert len(waiting) == 10
    assert not told.begun_again
    assert compare(before, take(site.pi)) == []


def test_the_client_sees_a_site_that_is_away_and_one_that_cannot_send(site: Site) -> None:
    client = Client(site, patience=30)
    client.start()

    site.pi.run("systemctl", "stop", "apache2")
    time.sleep(2)
    site.pi.run("systemctl", "start", "apache2")
    away = client.stop()

    assert {"other", "unsent"} <= away.troubles.keys()
    assert not {"lost", "twice"} & away.troubles.keys()


def test_the_client_sees_a_task_that_is_lost_and_one_that_runs_twice(site: Site) -> None:
    client = Client(site, patience=5)
    client.start()

    site.pi.run("systemctl", "stop", "celery-worker")
    client.send("quick", 3)
    site.pi.run("redis-cli", "-a", "R3dis-password-of-the-owner-2718281828", "del", "celery")
    site.pi.run("systemctl", "start", "celery-worker")
    for _ in range(2):
        site.ask("/send?id=sent-by-mistake-again")
    wait_for("both", lambda: site.runs().get("sent-by-mistake-again") == Run(2, 2))
    told = client.stop()

    assert len(told.lost) >= 3
    assert told.twice == ["sent-by-mistake-again"]


def test_the_client_outlasts_a_reboot_and_counts_what_was_sent_before(site: Site) -> None:
    client = Client(site)
    client.start()
    time.sleep(2)

    with client.away():
        site.pi.reboot()
    time.sleep(2)
    told = client.stop()

    assert not {"other", "unsent"} & told.troubles.keys(), told
    assert [tick for tick in told.ticks if tick.excused]


def test_the_picture_shows_a_changed_byte_a_stopped_unit_and_an_open_port(site: Site) -> None:
    before = take(site.pi)

    site.pi.run("sh", "-c", 'sed -i "s/MAIL_PORT=587/MAIL_PORT=588/" "$1"', "sh", f"{APP}/.env")
    site.pi.run("systemctl", "stop", "celery-beat")
    site.pi.run("ufw", "allow", "6379/tcp")
    found = compare(before, take(site.pi))
    site.pi.run("sh", "-c", 'sed -i "s/MAIL_PORT=588/MAIL_PORT=587/" "$1"', "sh", f"{APP}/.env")
    site.pi.run("systemctl", "start", "celery-beat")
    site.pi.run("ufw", "delete", "allow", "6379/tcp")

    names = {line.partition(": ")[0] for line in found}
    assert {
        f"file {APP}/.env",
        "unit celery-beat.service (runs)",
        "process celery-beat.service",
        "firewall rules",
        "firewall status",
    } <= names


def test_what_is_hunted_is_there_to_be_found(site: Site) -> None:
    """All of them are the web server's own, who could read each."""
    for file, words in SECRETS.items():
        command = ("runuser", "-u", "www-data", "--", "grep", "-q", words, f"{APP}/{file}")
        site.pi.run(*command)


def test_no_file_of_the_owners_is_served(site: Site) -> None:
    told = hunt(site.pi)

    assert told.served == []
    assert all(told.answers.values()), told.answers
    assert any("::1" in address for address in told.answers)


def test_debians_default_site_of_nginx_serves_all_of_them(site: Site) -> None:
    """Trouble 1, and the hunt's own control. Last, as it leaves another machine behind."""
    site.pi.run("systemctl", "stop", "apache2")
    site.pi.run(
        "sh",
        "-c",
        "apt-get update -q && DEBIAN_FRONTEND=noninteractive "
        "apt-get install -q -y --no-install-recommends nginx",
    )
    site.pi.run("systemctl", "restart", "nginx")

    told = hunt(site.pi)

    assert told.files == set(SECRETS)
    assert "/Observations_Nids/.env" in " ".join(told.served)
