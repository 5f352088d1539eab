"""That no job of root's can be forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.root_jobs import discovery
from tests.root_jobs.jobs import JOBS, Job
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

MADE_UP = {
    "unit made-up.service": ("/etc/systemd/system/made-up.service", "[Service]\nExecStart=/bin/id"),
    "unit cron.service": ("/etc/systemd/system/cron.service.d/x.conf", "[Service]\nNice=1"),
    "unit made-up-too.service": ("/etc/systemd/system/made-up-too.timer", "[Timer]\nOnBootSec=9"),
    "logrotate.d made-up": ("/etc/logrotate.d/made-up", ""),
    "tmpfiles.d made-up.conf": ("/etc/tmpfiles.d/made-up.conf", ""),
    "file /etc/cron.d/made-up": ("/etc/cron.d/made-up", ""),
    "program made_up.py": (f"{discovery.LIBRARY}/made_up.py", "if __name__ == '__main__': main()"),
}
PUT = 'mkdir -p "${1%/*}" && cat >"$1"'
REMOVE = 'rm "$@"; rmdir /etc/systemd/system/cron.service.d; systemctl daemon-reload'


@pytest.fixture
def made_up(pi: VirtualPi) -> Iterator[None]:
    for path, text in MADE_UP.values():
        pi.run("sh", "-c", PUT, "sh", path, input=f"# {discovery.OURS}.\n{text}\n".encode())
    pi.run("systemctl", "daemon-reload")
    yield
    pi.run("sh", "-c", REMOVE, "sh", *(path for path, _ in MADE_UP.values()))


def test_every_job_of_the_machine_and_of_the_source_is_named(pi: VirtualPi) -> None:
    found = discovery.on_machine(pi) | discovery.in_source()
    assert found == JOBS.keys()


@pytest.mark.usefixtures("made_up")
def test_a_job_that_is_not_named_is_found(pi: VirtualPi) -> None:
    assert discovery.on_machine(pi) - JOBS.keys() == MADE_UP.keys()


def test_every_option_of_a_command_is_tried(pi: VirtualPi) -> None:
    """But for those that change what it prints, or leave something out."""
    for name in discovery.commands(pi):
        options = set(re.findall(r"--[a-z]+", pi.run("celery-pi", name, "--help").stdout))
        jobs = JOBS[f"command {name}"]
        assert isinstance(jobs, list)
        tried = {word for job in jobs for word in job.command.split()}
        assert options - tried <= {"--help", "--json", "--only"}, name


def test_a_reason_leads_to_a_job_that_is_run() -> None:
    """A program that runs within a command or a unit: that one is named, and run."""
    for reason in (each for each in JOBS.values() if isinstance(each, str)):
        named = re.match(r"(?:within )?celery-pi ([a-z-]+)|((?:unit|logrotate\.d) [^\s,]+)", reason)
        if named:
            wanted = f"command {named[1]}" if named[1] else named[2]
            assert isinstance(JOBS[wanted], list), reason


def test_privileged_commands_are_of_units_that_are_run(pi: VirtualPi) -> None:
    """A unit of another user's whose commands are root's (`+`, `!`) is a job of root's too."""
    names = [name.partition(" ") for name in discovery.on_machine(pi)]
    units = [unit for kind, _, unit in names if kind == "unit"]
    steps = ",".join(f"Exec{step}Ex" for step in ("Condition", "StartPre", "Start", "StartPost"))
    steps += ",ExecReloadEx,ExecStopEx,ExecStopPostEx"
    shown = {unit: pi.run("systemctl", "show", "-p", steps, unit).stdout for unit in units}
    privileged = {
        unit for unit, text in shown.items() if re.search("flags=[^;]*(privileged|no-setuid)", text)
    }
    assert {"redis-server.service", "celery-flower.service"} <= privileged
    for unit in privileged:
        assert any(isinstance(job, Job) for job in JOBS[f"unit {unit}"]), unit
