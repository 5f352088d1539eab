"""What a deploy once did to a live site: each trouble as a test, on the commit that did it too.

`make troubles`: `make test` has the same site in `test_live_site.py`, and leaves these out. Each
scenario returns the harm that was done, or nothing: on 06a3844 there must be some, now none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.attacks.attacker import OLD
from tests.attacks.conftest import old_source
from tests.helpers.harness import ROOT, Outcome, pyinfra, wait_for
from tests.sites.build import APP, Site, build
from tests.sites.client import Client
from tests.sites.hunt import hunt
from tests.sites.test_live_site import OWNERS
from tests.virtual_pi.image import image_name
from tests.virtual_pi.platforms import native_platform

__all__ = ["old_source"]
TROUBLES = "CELERY_PI_TROUBLES"
pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(TROUBLES not in os.environ, reason=f"a drill: {TROUBLES}=1"),
]

UNKNOWN_THEN = {"replace_handmade", "app_venv_dir"}  # it made an environment of its own
SETTINGS: dict[str, object] = {"app_dir": APP, **OWNERS}
UNITS = "/etc/systemd/system"


@dataclass(frozen=True)
class Case:
    """A live site, and the source that is deployed to it."""

    site: Site
    source: Path
    is_old: bool

    def deploy(self, **changed: object) -> Outcome:
        """With the owner's settings, but for these; one that is None is left out."""
        given = {**SETTINGS, **changed}
        data = [
            word
            for key, value in given.items()
            if value is not None and not (self.is_old and key in UNKNOWN_THEN)
            for word in ("--data", f"{key}={value}")
        ]
        return pyinfra(self.site.pi, "-y", *data, "inventory.py", "deploy.py", cwd=self.source)

    def shown(self, *command: str) -> str:
        return self.site.pi.run(*command, check=False).stdout.strip()


Make = Callable[..., Case]


@pytest.fixture(params=[OLD, "now"])
def case(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes the machine anew, with what a scenario wants of it."""
    is_old = request.param == OLD
    source = request.getfixturevalue("old_source") if is_old else ROOT
    scope = request.config.getoption("--scope")
    process = getattr(request.config, "workerinput", {}).get("workerid", "main")
    name = "-".join([image_name(native_platform()), scope, process, "trouble"])
    made: list[Site] = []

    def make(**how: bool) -> Case:
        site = build(name, **how)
        made.append(site)
        return Case(site, source, is_old)

    yield make
    for site in made:
        site.pi.down()


def without_his_unit(case: Case) -> None:
    """The name that ours has too, by which trouble 4 comes before the others."""
    stop = f"systemctl disable --now celery-worker; rm {UNITS}/celery-worker.service"
    case.site.pi.run("sh", "-ec", f"{stop}; systemctl daemon-reload")


def judge(case: Case, harm: str) -> None:
    assert bool(harm) is case.is_old, harm


def unsent(case: Case) -> str:
    """Nothing, if a task that the site sends is run."""
    try:
        (task,) = Client(case.site).send("seen")
        wait_for("its task", lambda: task in case.site.runs(), 60)
    except (AssertionError, OSError) as error:
        return f"the site cannot send: {error}"
    return ""


def test_1_files_of_the_owners_are_served_once_apache_is_stopped(case: Make) -> None:
    it = case()
    without_his_unit(it)
    it.site.pi.run("systemctl", "disable", "--now", "apache2")
    it.deploy(flower=True, app_units=None)
    judge(it, " ".join(hunt(it.site.pi).served[:3]))


def test_2_nginx_starts_beside_apache_at_the_next_boot(case: Make) -> None:
    it = case()
    without_his_unit(it)
    it.deploy(flower=True, nginx_server=False)
    judge(it, "enabled" if it.shown("systemctl", "is-enabled", "nginx") == "enabled" else "")


def test_3_pins_that_contradict_the_owners_leave_a_site_that_cannot_send(case: Make) -> None:
    it = case()
    assert it.deploy(app_pins=None).status != 0
    judge(it, unsent(it))


def test_4_a_worker_of_his_by_our_name_ends_each_deploy(case: Make) -> None:
    it = case()
    told = it.deploy()
    judge(it, "" if told.status == 0 else told.output[-500:])


def test_5_6_8_11_12_a_deploy_beside_the_rest_of_the_guide(case: Make) -> None:
    it = case()
    without_his_unit(it)
    for_all = "sed -i '/^bantime/d; 1i [DEFAULT]\\nbantime = 3600' /etc/fail2ban/jail.local"
    it.site.pi.run("sh", "-ec", f"{for_all}; fail2ban-client reload")
    before = it.shown("fail2ban-client", "get", "sshd", "bantime")
    assert before == "3600"
    assert Client(it.site).send("seen")  # which the site's process knows the broker for, from here
    told = it.deploy(app_units=None)
    assert told.status == 0, told.output
    harms = {
        "5: Flower's unit is lost": not it.shown(
            "sh", "-c", f"ls {UNITS}/celery-flower.service /var/lib/celery-pi/before/files{UNITS}/"
        ).count("celery-flower.service"),
        "6: the site cannot send": bool(unsent(it)),
        "8: the worker starts before MariaDB": "mariadb.service"
        not in it.shown("systemctl", "show", "-P", "After", "celery-worker"),
        "11: logrotate fails": "duplicate log entry"
        in it.site.pi.run("sh", "-c", "logrotate -d /etc/logrotate.conf 2>&1", check=False).stdout,
        "12: ssh's ban is another": it.shown("fail2ban-client", "get", "sshd", "bantime") != before,
    }
    done = {harm for harm, is_done in harms.items() if is_done}
    expected = set(harms) if it.is_old else set()
    assert done == expected, f"{sorted(done ^ expected)}: {told.output[-500:]}"


def test_7_a_worker_that_runs_is_stopped_for_one_that_cannot_start(case: Make) -> None:
    """The app logs to a directory of its own, which is named no more."""
    it = case()
    without_his_unit(it)
    assert it.deploy().status == 0
    assert it.deploy(app_writable="media,logs").status != 0
    state = it.shown("systemctl", "is-active", "celery-worker")
    judge(it, "" if state == "active" else f"the worker is {state}")


def test_9_an_old_worker_goes_on_beside_ours(case: Make) -> None:
    it = case()
    it.site.pi.run(
        *("sh", "-ec"),
        f"systemctl disable --now celery-worker; cd {UNITS}; mv celery-worker.service old.service; "
        "systemctl daemon-reload; systemctl enable --now old",
    )
    it.deploy()
    judge(it, "both run" if it.shown("systemctl", "is-active", "old") == "active" else "")


def test_10_a_jail_with_which_fail2ban_cannot_start_ends_a_deploy_half_way(case: Make) -> None:
    it = case(host_in_filter=False)
    it.deploy()
    is_there = it.site.pi.run("test", "-e", "/etc/celery-pi", check=False).returncode == 0
    judge(it, "it was begun" if is_there else "")
