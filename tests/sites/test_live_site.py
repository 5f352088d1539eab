"""A deploy onto a site that serves people, from the first look to the way back.

One machine and one client, who asks the site and sends a task each second from the first test to
the last: each test goes on where the one before has ended.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.helpers.harness import Outcome, deploy, plan, pyinfra, run, wait_for
from tests.sites.build import APP, Site
from tests.sites.client import Client
from tests.sites.hunt import hunt
from tests.sites.picture import AFTER_A_RESTART, BY_ITSELF, Allowed, Picture, compare, take

pytestmark = [pytest.mark.native, pytest.mark.counts]

# Values of what the sentences may ask for; what they do not name is not given.
OWNERS = {
    "replace_handmade": True,
    "app_venv_dir": ".venv",
    "app_pins": "celery==5.6.0,kombu==5.6.1,redis==7.1.0,flower==2.0.1",
    "app_units": "apache2.service",
    "app_writable": "media,logs,journaux",
    "firewall_allow": "8123/tcp",
    "flower": False,
    "backup_mariadb": "observations_nids",
}
TRIES = 2
EVIL = "of-whoever-reaches-redis"  # password of a user
# Whatever runs for the site, or is the owner's own.
SITES = (
    *("apache2.service", "mariadb.service", "redis-server.service"),
    *("celery-worker.service", "celery-beat.service", "celery-flower.service"),
)
# The guide's, whose work is done by ours; each may be gone or changed once it has been replaced.
REPLACED = (
    "/etc/systemd/system/celery-worker.service",
    "/etc/systemd/system/celery-beat.service",
    "/etc/systemd/system/celery-flower.service",
    "/etc/logrotate.d/celery",
    "/var/spool/cron/crontabs/root",
    "/etc/fail2ban/filter.d/redis-auth.conf",
)
AFTER_LEAVING = (
    *BY_ITSELF,
    *AFTER_A_RESTART,
    Allowed(r"file /var/backups/celery-pi(/.*)?", "the backups stay, says the issue"),
    Allowed(r"file /var/lib/dpkg(/.*)?", "dpkg's account of what was installed and removed"),
    Allowed(r"file /var/lib/apt(/.*)?", "apt's, of what there is and what was installed"),
    Allowed(r"file /etc/(passwd|group|shadow|gshadow|subuid|subgid)-?", "numbers of users"),
    Allowed(r"file /etc/ld\.so\.cache", "ldconfig's, of what is installed"),
    Allowed(
        r"file /var/lib/ucf/(hashfile|registry)(\.[0-9])?", "ucf's account of what it has seen"
    ),
    Allowed(r"file /var/lib/systemd/deb-systemd-helper.*", "Debian's own account"),
)


OURS_BY_ITSELF = (
    Allowed(r"file /var/lib/celery-beat(/.*)?", "Beat saves it when it likes"),
    Allowed(r"file /etc/celery-pi/manifest\.json", "the digest of the cache of facts, and when"),
)


@dataclass
class Course:
    """What one test leaves to the next."""

    site: Site
    client: Client
    before: Picture
    settings: dict[str, object] = field(default_factory=lambda: {"app_dir": APP})
    waiting: list[str] = field(default_factory=list)
    is_deployed: bool = False


@pytest.fixture(scope="module")
def course(site: Site) -> Iterator[Course]:
    client = Client(site)
    made = cli(
        site,
        f"acl setuser evil on >{EVIL} ~* &* +@all",
        "-a",
        "R3dis-password-of-the-owner-2718281828",
    )
    assert made.endswith("OK")  # whoever reaches that Redis can do it
    before = take(site.pi)
    client.start()
    yield Course(site, client, before)
    client.stop()


@pytest.fixture
def deployed(course: Course) -> Course:
    """The same, once the deploy has ended well: there is nothing to see before."""
    if not course.is_deployed:
        pytest.skip("the deploy has not ended well")
    return course


@contextmanager
def unnoticed(course: Course) -> Iterator[None]:
    """Whoever uses the site sees nothing of what is done."""
    began = time.time()
    yield
    time.sleep(2)
    seen = course.client.since(began)
    assert seen.ticks
    assert seen.troubles == {}, seen


def cli(site: Site, command: str, *words: str) -> str:
    """What Redis answers to redis-cli with these words; `command` is split at spaces."""
    return site.pi.run("redis-cli", *words, *command.split(), check=False).stdout.strip()


def nothing_served(site: Site) -> None:
    told = hunt(site.pi)
    assert told.served == []
    assert any("::1" in address and number for address, number in told.answers.items())
    outside = {key: number for key, number in told.answers.items() if "from outside" in key}
    assert len(outside) == 2
    assert all(outside.values()), outside


def test_a_plan_touches_nothing(course: Course) -> None:
    with unnoticed(course):
        told = pyinfra(
            course.site.pi,
            "--dry",
            "--diff",
            "--data",
            f"app_dir={APP}",
            "inventory.py",
            "deploy.py",
        )

    assert "replace_handmade" in told.output, told.output
    assert "apache2" in told.output
    assert "Traceback" not in told.output
    assert compare(course.before, take(course.site.pi)) == []


def test_a_deploy_with_the_directory_alone_is_refused_and_leaves_all_as_it_was(
    course: Course,
) -> None:
    with unnoticed(course):
        told = deploy(course.site.pi, app_dir=APP)

    assert told.status != 0
    assert "is left as it was" in told.output, told.output
    assert compare(course.before, take(course.site.pi)) == []
    give(course, told)
    assert "replace_handmade" in course.settings
    nothing_served(course.site)


def give(course: Course, told: Outcome) -> None:
    """Write the settings that its sentences name."""
    for name, value in OWNERS.items():
        if name in told.output:
            course.settings[name] = value


def test_with_what_its_sentences_ask_for_it_ends_well_in_two_tries_and_nobody_notices(
    course: Course,
) -> None:
    """50 tasks wait and 10 run meanwhile."""
    course.waiting = course.client.send("slow", 10, 20.0)
    wait_for("the 10 run", lambda: begun(course) == 10)
    course.waiting += course.client.send("row", 50)

    said = ""
    with unnoticed(course):
        for _ in range(TRIES):
            before = take(course.site.pi)
            told = deploy(course.site.pi, **course.settings)
            said += " ".join(re.sub(r"\[[^]]*\]", "", told.output).split())
            if told.status == 0:
                break
            goes_on_as_before(before, take(course.site.pi), told)
            give(course, told)

    assert told.status == 0, told.output
    assert "Redis' user evil (yours: it stays, without the right to administer" in said
    course.is_deployed = True
    wait_for("all end once", lambda: ended_once(course), 120)


def goes_on_as_before(before: Picture, now: Picture, told: Outcome) -> None:
    """After a try that did not end well: refused, nothing is changed; cut off before the first
    thing that the site can feel, what runs is what ran, with the `.env` of before."""
    if "is left as it was" in told.output:
        assert compare(before, now) == []
    assert now["file"][f"{APP}/.env"] == before["file"][f"{APP}/.env"], told.output
    ran = {name: pid for name, pid in before["process"].items() if name in SITES}
    assert len(ran) == len(SITES)
    assert {name: now["process"].get(name) for name in SITES} == ran, told.output


def begun(course: Course) -> int:
    runs = course.site.runs()
    return sum(task in runs for task in course.waiting)


def ended_once(course: Course) -> bool:
    runs = course.site.runs()
    return all(task in runs and runs[task].ended == 1 for task in course.waiting)


def test_a_second_deploy_changes_nothing(deployed: Course) -> None:
    before = take(deployed.site.pi)

    with unnoticed(deployed):
        told = deploy(deployed.site.pi, **deployed.settings)

    assert told.changed == set()
    assert compare(before, take(deployed.site.pi), (*BY_ITSELF, *OURS_BY_ITSELF)) == []
    assert plan(deployed.site.pi, **deployed.settings).planned == set()


def test_all_is_well_by_the_sites_and_by_our_own_account(deployed: Course) -> None:
    """The site itself has its task run, by our worker, with `.env` as the site reads it."""
    (task,) = deployed.client.send("seen")

    wait_for("the task", lambda: task in deployed.site.runs())
    proved = deployed.site.pi.run("celery-pi", "prove")
    well = deployed.site.pi.run("celery-pi", "audit", check=False)

    assert "SUCCESS" in proved.stdout
    assert well.returncode == 0, well.stdout
    nothing_served(deployed.site)


def test_what_is_the_owners_own_stays_his(deployed: Course) -> None:
    """His ban of an hour, his rule and his limits: none of them is the guide's."""
    now = take(deployed.site.pi)

    assert now["ban"]["sshd"] == "3600"
    assert "8123/tcp" in now["firewall"]["rules"]
    assert "Home Assistant" in now["firewall"]["rules"]
    shown = deployed.site.pi.run("systemctl", "show", "-p", "CPUQuotaPerSecUSec", "celery-worker")
    assert shown.stdout.strip() == "CPUQuotaPerSecUSec=1.500000s"
    differing = compare(deployed.before, now)
    gone = {line.split()[1].rstrip(":") for line in differing if line.endswith("=> absent")}
    links = {path for path in gone if ".wants/celery-" in path}
    assert {path for path in gone if path.startswith("/")} - links <= set(REPLACED)


def test_a_user_of_redis_from_before_goes_on_and_administers_no_more(deployed: Course) -> None:
    evil = ("--user", "evil", "--pass", EVIL, "--no-auth-warning")

    assert cli(deployed.site, "set evil 1", *evil) == "OK"
    assert cli(deployed.site, "del evil", *evil) == "1"
    for command in ("acl setuser evil +@admin", "config get dir", "shutdown nosave", "acl list"):
        assert "NOPERM" in cli(deployed.site, command, *evil), command
    told = deployed.site.pi.run("celery-pi", "audit", check=False).stdout
    assert "from before the first deploy: evil" in told


def test_whatever_has_been_replaced_is_kept(deployed: Course) -> None:
    now = take(deployed.site.pi)
    kept = {
        words.split()[-1] for path, words in now["file"].items() if "/celery-pi/before/" in path
    }

    for path in REPLACED:
        if now["file"].get(path) != deployed.before["file"][path]:
            assert deployed.before["file"][path].split()[-1] in kept, path


@pytest.mark.parametrize("restart", [1, 2, 3])
def test_after_a_restart_all_is_as_before(deployed: Course, restart: int) -> None:
    deployed.client.send("row", 4, 3.0)
    with deployed.client.away():
        deployed.site.pi.reboot()

    (task,) = deployed.client.send("row")

    wait_for(f"the task after restart {restart}", lambda: deployed.site.rows()[task] == 2, 60)
    listening = take(deployed.site.pi)["listener"]
    assert {listening["tcp *:80"], listening["tcp *:443"]} == {"apache2"}
    nothing_served(deployed.site)


def test_leaving_gives_back_the_machine_as_it_was(deployed: Course) -> None:
    waiting = deployed.client.send("slow", 10, 3.0)

    with unnoticed(deployed):
        told = run("make", "leave", f"HOST=@docker/{deployed.site.pi.name}", "YES=1")

    assert told.status == 0, told.output
    deployed.waiting = waiting
    wait_for("all end once", lambda: ended_once(deployed), 120)
    assert compare(deployed.before, take(deployed.site.pi), AFTER_LEAVING) == []
    nothing_served(deployed.site)


def test_nobody_has_noticed_anything_and_no_task_is_lost_or_run_twice(course: Course) -> None:
    told = course.client.stop()

    assert told.troubles == {}, told
    assert len(told.sent) > 60
