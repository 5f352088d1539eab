"""Traps wherever another user may write, for every job of root's there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.helpers.harness import APP, prove
from tests.root_jobs.jobs import Job, among
from tests.root_jobs.traps import ESCAPES, KINDS, MIXED
from tests.root_jobs.walk import DATABASE, DEPLOY, LOG, MIB, Result, Walk, is_of_rest, prepared
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

MOST = 100 * MIB
ONE_BY_ONE = "CELERY_PI_ONE_BY_ONE"  # set: each directory alone, which takes an hour
NOTHING = "nothing"
DEPLOYED = ("file", "fifo", "sparse", MIXED)  # a deploy takes as long as all other jobs


@pytest.fixture(scope="module")
def walk(second_pi: VirtualPi) -> Iterator[Walk]:
    with prepared(second_pi) as walk:
        yield walk


# -- that the guards below can fail


def test_what_a_process_of_another_user_has_of_roots_is_seen(walk: Walk) -> None:
    seen = walk.run([Job("runuser -u www-data -- sleep 0.3")])[0]
    assert [each.split(": ", 3)[1].split()[0] for each in seen.roots] == ["www-data"]
    for had in (
        *("a terminal", "a session of root's", "root's environment"),
        *("descriptor 0 on a terminal", "descriptor 9 on /root/celery-pi-walk.open"),
    ):
        assert had in seen.roots[0]


FORGOTTEN = "import os, time; os.setgid(33); os.setuid(33); time.sleep(1)"


def test_a_process_that_becomes_another_user_without_a_program_is_seen(walk: Walk) -> None:
    seen = walk.run([Job(f"python3 -c '{FORGOTTEN}'")])[0]
    assert len(seen.roots) == 1
    assert "descriptor 9" in seen.roots[0]


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("cat {}", "last access"),
        ("chown root: {}", "last change"),
        ("chown www-data {}", "owner"),
        ("truncate -s 1 {}", "size"),
        ("ln {} {}.second", "names"),
    ],
)
def test_what_happens_to_a_file_of_roots_is_seen(walk: Walk, command: str, what: str) -> None:
    file = "/var/lib/celery-pi/canary/directory/schedule"
    keep, back = f"cp -p {file} /root/kept", f"rm -f {file}.second; mv /root/kept {file}"
    seen = walk.run([Job(f"sh -c '{keep}; true'"), Job(command.format(file, file))])[1]
    walk.pi.run("sh", "-c", back)
    assert any(file in told and what in told for told in seen.touched)


def test_what_hangs_and_what_takes_memory_is_seen(walk: Walk) -> None:
    hangs, takes = walk.run(
        [Job("sleep 60", limit=1), Job("python3 -c 'x = bytearray(2 ** 27); import os; os.sync()'")]
    )
    assert hangs.hung
    assert not takes.hung
    assert len(takes.above(MOST)) == 1


# -- all directories at once


@dataclass
class Round:
    """The jobs among all traps of one kind, and where the text of root's files was then."""

    kind: str
    results: list[Result]
    told_elsewhere: list[str]


# A round takes two minutes and more: `make walk` has each kind everywhere.
ROUNDS = KINDS if ONE_BY_ONE in os.environ else (MIXED,)


@pytest.fixture(scope="module", params=[NOTHING, *ROUNDS])
def around(walk: Walk, request: pytest.FixtureRequest) -> Round:
    kind, since, results = request.param, walk.now(), []
    if kind == NOTHING:
        results += [*walk.run(among("app")), walk.deploy()]
    else:
        found = walk.directories()
        for which, what in (("app", "deploy.py"), ("rest", "tasks.app.deploy")):
            places = [each for each in found if is_of_rest(each) == (which == "rest")]
            with walk.trapped(kind, places):
                results += walk.run(among(which))
                results += [walk.deploy(what)] if kind in DEPLOYED else []
    return Round(kind, results, walk.told_elsewhere(since))


def test_no_file_of_roots_is_changed_read_or_given_away(around: Round) -> None:
    assert {each.name: each.touched for each in around.results if each.touched} == {}
    assert around.told_elsewhere == []


def test_nothing_hangs(around: Round) -> None:
    assert [each.name for each in around.results if each.hung] == []


def test_memory_stays_below_100_mb(around: Round) -> None:
    assert [told for each in around.results for told in each.above(MOST)] == []


def test_processes_of_other_users_have_nothing_of_roots(around: Round) -> None:
    assert [told for each in around.results for told in each.roots] == []


def test_no_escapes_of_others_reach_the_terminal(around: Round) -> None:
    assert [each.name for each in around.results if ESCAPES[:4] in each.said] == []


def test_without_traps_every_job_does_its_work_and_is_looked_into(around: Round) -> None:
    if around.kind != NOTHING:
        pytest.skip("among traps it need not")
    users = {job.command: set(job.users) for job in among("app")} | {DEPLOY: {"www-data", "pi"}}
    done = {each.name: each for each in around.results}
    assert done.keys() == users.keys()
    assert {name: each.said for name, each in done.items() if each.status} == {}
    assert {name for name in users if not users[name] <= done[name].users} == set()


# -- one trap at a time: who comes across it says so

ENV, SCHEDULE = f"{APP}/.env", "/var/lib/celery-beat/schedule"
MANIFEST = "/var/lib/redis/appendonlydir/appendonly.aof.manifest"
LOGROTATE = next(job for job in among("app") if "logrotate" in job.command)
# A trap; who puts it there; and each job with the unit whose journal tells, if it does not itself.
SAYS: list[tuple[str, str, dict[str, str]]] = [
    (
        *(ENV, "pi"),
        {
            **dict.fromkeys(("check", "prove", "backup", "doctor", "audit"), ""),
            **{"systemctl restart celery-worker": "celery-worker"},
            **{"systemctl restart celery-beat": "celery-beat"},
            **{"/etc/needrestart/restart.d/celery-worker.service": "", DEPLOY: ""},
        },
    ),
    (DATABASE, "www-data", {"backup": "", "systemctl start celery-pi-backup": "celery-pi-backup"}),
    (SCHEDULE, "www-data", {"status": ""}),
    (LOG, "www-data", {LOGROTATE.command: "walk-logrotate"}),
    (MANIFEST, "redis", {"systemctl restart redis-server": "redis-server"}),
]


@pytest.mark.parametrize("kind", ["fifo", "file"] if ONE_BY_ONE in os.environ else ["fifo"])
@pytest.mark.parametrize(("path", "user", "jobs"), SAYS, ids=[path for path, _, _ in SAYS])
def test_every_job_says_what_it_refuses(
    walk: Walk, kind: str, path: str, user: str, jobs: dict[str, str]
) -> None:
    directory, _, name = path.rpartition("/")
    silent, touched = [], []
    if (path, kind) == (LOG, "file"):
        pytest.skip("logrotate, as the app's user, sees none")
    place = {"user": user, "directory": directory, "names": [name]}
    with walk.trapped(kind, [place], beat=path == ENV):
        for command, unit in jobs.items():
            since = walk.now()
            told = command if " " in command or "/" in command else f"celery-pi {command}"
            done = walk.deploy() if command == DEPLOY else walk.run([Job(told, limit=150)])[0]
            said = done.said + (walk.journal(since, unit) if unit else "")
            silent += [] if path in said.replace("\r\n", "\n") else [f"{command}: {said[-500:]}"]
            touched += done.touched
    assert silent == []
    assert touched == []


# -- each directory alone


@pytest.mark.skipif(ONE_BY_ONE not in os.environ, reason=f"takes an hour: {ONE_BY_ONE}=1")
@pytest.mark.parametrize("kind", KINDS)
def test_traps_in_each_directory_alone_do_no_harm(walk: Walk, kind: str) -> None:
    harm = []
    for place in walk.directories():
        since = walk.now()
        which = "rest" if is_of_rest(place) else "app"
        with walk.trapped(kind, [place]):
            results = [*walk.run(among(which)), walk.deploy()]
        for each in results:
            told = [*each.touched, *each.roots, *each.above(MOST), *["hangs"][: each.hung]]
            harm += [f"{place['directory']}: {each.name}: {what}" for what in told]
        harm += [f"{place['directory']}: {told}" for told in walk.told_elsewhere(since)]
    assert harm == []


def test_afterwards_all_is_well(walk: Walk) -> None:
    assert "SUCCESS" in prove(walk.pi)
    assert walk.pi.run("systemctl", "--failed", "--plain", "--no-legend").stdout == ""
