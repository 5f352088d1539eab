"""What somebody set up by hand is found by what it is, and named before anything is touched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from celery_pi.facts.handmade import CRON, OUR_NAMES, SHOW, HandMade, HandmadeItem, problems
from celery_pi.settings import Settings

APP = "/srv/nids"
WORKER = f"[Service]\nWorkingDirectory={APP}\nExecStart={APP}/venv/bin/celery -A nids worker\n"
BEAT = f"[Service]\nExecStart={APP}/venv/bin/celery \\\n  -A nids beat\n"


class Machine:
    """Directories in the place of those that are looked into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("units", "logrotate.d", "cron.d", "crontabs"):
            (root / name).mkdir()

    def put(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(exist_ok=True)
        (self.root / path).write_text(text)

    def lines(self) -> list[str]:
        script = SHOW
        for real, name in (
            ("/etc/logrotate.d", "logrotate.d"),
            ("/etc/cron.d", "cron.d"),
            ("/var/spool/cron/crontabs", "crontabs"),
        ):
            script = script.replace(real, str(self.root / name))
        variables = {"app": APP, "units": str(self.root / "units"), "cron": CRON}
        done = subprocess.run(
            ["sh", "-c", script],
            env={**variables, "names": " ".join(OUR_NAMES), "PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.splitlines()

    def found(self) -> set[tuple[str, str, str]]:
        found = HandMade().process(self.lines())
        told = {tuple(each) for each in found if each.what != "process"}
        return {(what, name.removeprefix(f"{self.root}/"), more) for what, name, more in told}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_is_found_where_nothing_is(machine: Machine) -> None:
    assert machine.found() == set()


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("celery.service", WORKER, "worker"),
        ("celery-worker.service", WORKER, "worker"),
        ("celerybeat.service", BEAT, "beat"),
        ("celery-flower.service", "[Service]\nExecStart=/opt/celery -A x flower\n", "flower"),
        ("celery-beat.service", "[Service]\nExecStart=/bin/true\n", "other"),  # a name of ours
    ],
)
def test_unit_is_found_by_what_it_runs_or_by_its_name(
    machine: Machine, name: str, text: str, kind: str
) -> None:
    machine.put(f"units/{name}", text)
    assert machine.found() == {("unit", name, kind)}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("units/celery-worker.service", f"# Managed by celery-pi: changes are undone\n{WORKER}"),
        ("units/celery.service", WORKER.replace(APP, "/srv/other")),
        ("units/gunicorn.service", f"[Service]\nExecStart={APP}/venv/bin/gunicorn nids.wsgi\n"),
        ("units/celery-worker.service.d/sandbox.conf", "# Managed by celery-pi: ...\n"),
        ("cron.d/popularity", "0 3 * * * root find / -name redis\n"),
        ("cron.d/own", "0 3 * * * root /usr/local/bin/celery-pi backup # redis-cli\n"),
        ("crontabs/root", "# 0 2 * * * redis-cli bgsave\n"),
        ("logrotate.d/site", "/var/log/site/*.log {}\n"),
    ],
)
def test_what_is_ours_or_has_nothing_to_do_with_it_is_not(
    machine: Machine, path: str, text: str
) -> None:
    machine.put(path, text)
    assert machine.found() == set()


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        ("units/celery-worker.service.d/override.conf", "[Service]\nUser=root\n", "dropin"),
        ("logrotate.d/celery", f"{APP}/logs/*.log {{}}\n", "logrotate"),
        ("logrotate.d/celery", "/var/log/celery/worker.log {}\n", "logrotate"),
        ("crontabs/root", "0 2 * * * /usr/local/bin/backup-redis.sh\n", "cron"),
        ("cron.d/queue", f"@reboot pi {APP}/venv/bin/celery -A nids worker\n", "cron"),
    ],
)
def test_what_would_work_against_ours_is_found(
    machine: Machine, path: str, text: str, what: str
) -> None:
    machine.put(path, text)
    assert machine.found() == {(what, path, "-")}


def test_drop_in_beside_a_unit_of_ours_is_the_owners_to_have(machine: Machine) -> None:
    machine.put("units/celery-worker.service", f"# Managed by celery-pi: ...\n{WORKER}")
    machine.put("units/celery-worker.service.d/own.conf", "[Service]\nReadWritePaths=/srv\n")
    assert machine.found() == set()


FOUND = [
    HandmadeItem("unit", "celery.service", "worker"),
    HandmadeItem("cron", "/var/spool/cron/crontabs/root", "-"),
]


def test_it_is_refused_in_one_sentence_that_names_all_and_what_to_write() -> None:
    (told,) = problems(FOUND, Settings())
    assert "celery.service (worker), /var/spool/cron/crontabs/root" in told
    assert "replace_handmade = True" in told


def test_it_may_be_replaced() -> None:
    assert list(problems(FOUND, Settings(replace_handmade=True))) == []


@pytest.mark.parametrize("replace", [True, False])
def test_process_in_no_unit_that_can_be_put_aside_is_always_refused(replace: bool) -> None:
    found = [HandmadeItem("process", "session-3.scope", "4711")]
    (told,) = problems(found, Settings(replace_handmade=replace))
    assert "4711 (session-3.scope)" in told


def test_processes_of_units_are_not_told_twice() -> None:
    names = ("celery.service", "supervisor.service", "celery-worker.service", "celery-pi-7.service")
    lines = ["unit celery.service worker", *(f"process {name} {len(name)}" for name in names)]
    told = [each for each in HandMade().process(lines) if each.what == "process"]
    assert told == [HandmadeItem("process", "supervisor.service", "18")]


def test_of_a_command_line_only_the_first_mebibyte_is_read(machine: Machine) -> None:
    """It may be as large as the process' memory."""
    for many, is_found in ((1, True), (10, False)):
        command = ["sh", "-c", "read -r line", "celery", "worker", *["x" * 120_000] * many]
        with subprocess.Popen([*command, f"{APP}/x"], stdin=subprocess.PIPE) as process:
            assert any(str(process.pid) in line.split() for line in machine.lines()) is is_found
            process.communicate(b"")
