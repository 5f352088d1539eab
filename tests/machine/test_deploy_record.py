"""Deploys as records: one at a time, none lost sight of, and back to the one before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from celery_pi.fact_cache import FILE as FACTS
from celery_pi.manifest import FILE as MANIFEST
from tests.helpers.harness import (
    APP,
    PYINFRA,
    ROOT,
    WHAT,
    Outcome,
    deploy,
    pids,
    pyinfra,
    redis,
    run,
    wait_for,
)
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

LOGS = ("inventory.py", "tasks.logs.deploy")  # the quickest component that restarts something
JOURNAL = "/etc/systemd/journald.conf.d/celery-pi.conf"
# Stands before the real systemctl in PATH, and does not restart the journal until it is told to.
WAITS = b"""#!/bin/sh
case "$1 $2" in "restart systemd-journald.service")
  touch /root/reached
  until [ -e /root/go ]; do sleep 0.2; done ;;
esac
exec /usr/bin/systemctl "$@"
"""
LATER = "/etc/systemd/system/celery-worker.service.d/later.conf"


def records(pi: VirtualPi) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(pi.run("celery-pi", "deploys", "--json").stdout)
    return told


def newest(pi: VirtualPi) -> int:
    """Number of the last deploy on record; a machine that many have deployed to keeps only some."""
    return max((int(record["number"]) for record in records(pi)), default=0)


def since(pi: VirtualPi, number: int) -> list[dict[str, Any]]:
    return [record for record in records(pi) if int(record["number"]) > number]


@contextmanager
def under_way(pi: VirtualPi) -> Iterator[subprocess.Popen[str]]:
    """A deploy that has written a file and now waits in the middle of a restart."""
    install = "cat >/usr/local/bin/systemctl && chmod +x /usr/local/bin/systemctl"
    pi.run("sh", "-c", install, input=WAITS)
    with subprocess.Popen(
        (PYINFRA, "-y", "--data", "journal_max_use=64mb", *LOGS),
        cwd=ROOT,
        env=os.environ | {"CELERY_PI_HOST": f"@docker/{pi.name}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as started:
        reached = ("test", "-e", "/root/reached")
        try:
            wait_for("it waits", lambda: pi.run(*reached, check=False).returncode == 0, 180)
            yield started
        finally:
            pi.run("touch", "/root/go")
            started.communicate(timeout=180)
            pi.run("rm", "-f", "/usr/local/bin/systemctl", "/root/reached", "/root/go")


def test_deploy_during_a_deploy_is_refused_and_the_first_one_completes(pi: VirtualPi) -> None:
    before = newest(pi)
    with under_way(pi) as first:
        journal = pi.run("stat", "-c", "%i %Y", JOURNAL).stdout
        second = pyinfra(pi, "-y", "--data", "journal_max_use=99mb", *LOGS)
        assert second.status == 1
        (running,) = since(pi, before)
        assert running["result"] == "running"
        said = (
            f"is left as it was: {running['who']} deploys to it since {running['started']} (Logs)"
        )
        assert said in second.output
        assert "Traceback" not in second.output
        assert pi.run("stat", "-c", "%i %Y", JOURNAL).stdout == journal
        assert pyinfra(pi, "--dry", *LOGS).status == 0, "a plan needs no lock"
        assert first.poll() is None
    assert first.returncode == 0
    (ended,) = since(pi, before)
    assert ended["result"] == "completed"
    assert ended["settings"] == {"journal_max_use": "64mb"}
    assert ended["changed"] == ["Logs | Configure", "Logs | Let the journal take it over"]
    assert ended["what"] == ["Logs"]


def test_deploy_that_was_killed_is_told_and_keeps_the_next_one_only_for_its_lease(
    pi: VirtualPi,
) -> None:
    before = newest(pi)
    pi.run("rm", JOURNAL)  # or there is nothing to change
    with under_way(pi) as killed:
        os.killpg(killed.pid, signal.SIGKILL)
        pi.run("pkill", "-f", "^/bin/sh /usr/local/bin/systemctl restart")
        pi.run("rm", "/usr/local/bin/systemctl")
        assert records(pi)[-1]["result"] == "running", "nobody can know yet"
        after = pyinfra(pi, "--json", "-y", *LOGS)
    assert after.changed == {"Logs | Configure", "Logs | Let the journal take it over"}
    assert [record["result"] for record in since(pi, before)] == ["cut off", "completed"]


def test_run_that_changes_nothing_leaves_no_trace(pi: VirtualPi) -> None:
    look = "ls -lR --time-style=full-iso /var/lib/celery-pi; ls /run/celery-pi"
    before = pi.run("sh", "-c", look).stdout
    assert pyinfra(pi, "--json", "-y", *LOGS).changed == set()
    assert pi.run("sh", "-c", look).stdout == before
    assert before.endswith("\nlock\n")


def test_record_is_roots_and_tells_the_commit(pi: VirtualPi) -> None:
    whole_deploy(pi)
    record = records(pi)[-1]
    commit = run("git", "rev-parse", "HEAD").stdout.strip()
    assert record["commit"].removesuffix("-dirty") == commit
    assert (record["what"], record["result"]) == (["deploy.py"], "completed")
    assert record["changed"] == ["Command | Install celery-pi"]
    assert record["settings"] == {}
    assert {JOURNAL, "/etc/celery-pi/flower.env"} <= set(record["files"])
    modes = pi.run("sh", "-c", "cd /var/lib/celery-pi && stat -c %a deploys deploys/*").stdout
    assert set(modes.split()[1:]) == {"600"}
    assert modes.split()[0] == "700"


def whole_deploy(pi: VirtualPi, project: Path = ROOT) -> None:
    """One that changes no more than it must to be recorded."""
    pi.run("rm", "/etc/celery-pi/settings.json")
    done = pyinfra(pi, "--json", "-y", *WHAT, cwd=project)
    assert done.changed == {"Command | Install celery-pi"}


def ours(pi: VirtualPi) -> dict[str, str]:
    """Digest, mode and owner of everything in /etc and /usr/local, and of `.env`, by path; but for
    ufw's own files, what Python keeps of a source, and, in the manifest, the cache of facts: the
    questions of a rollback are others."""
    files = f"find /etc /usr/local {APP}/.env -path /etc/ufw -prune -o -type f -not -name '*.pyc'"
    digests = pi.run("sh", "-c", f"{files} -exec sha256sum {{}} +").stdout.splitlines()
    modes = pi.run("sh", "-c", f"{files} -printf '%p|%m %u %g\\n'").stdout.splitlines()
    found = dict(line.split("|", 1) for line in modes)
    for line in digests:
        digest, path = line.split("  ", 1)
        found[path] += f" {digest}"
    manifest = json.loads(pi.run("cat", MANIFEST).stdout)
    assert manifest["files"].pop(FACTS)["sha256"]
    found[MANIFEST] = json.dumps(manifest)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project as an owner has it: a checkout in which all is committed."""
    project = tmp_path / "project"
    ignored = shutil.ignore_patterns(".venv", ".git", "tests", ".*cache", "__pycache__")
    shutil.copytree(ROOT, project, ignore=ignored)
    git(project, "init", "-q")
    commit(project)
    (project / ".venv").symlink_to(ROOT / ".venv")
    return project


def git(project: Path, *arguments: str) -> str:
    done = run("git", "-c", "user.name=ann", "-c", "user.email=ann@desk", *arguments, cwd=project)
    assert done.status == 0, done.output
    return done.stdout.strip()


def commit(project: Path) -> str:
    git(project, "add", "--", ".", ":!.venv")
    git(project, "commit", "-qm", "What is deployed")
    return git(project, "rev-parse", "HEAD")


def change(project: Path) -> None:
    """Another worker unit, and a file more beside it."""
    unit = project / "templates/etc/systemd/system/celery-worker.service.j2"
    unit.write_text(unit.read_text().replace("TasksMax=512", "TasksMax=513"))
    added = project / f"files{LATER}"
    added.parent.mkdir(parents=True, exist_ok=True)
    added.write_text("[Service]\nNice=5\n")
    task = project / "tasks/worker.py"
    text = task.read_text()
    assert text.count("unit, sandbox]") == text.count("unit, sandbox)]") == 1
    for end in ("]", ")]"):
        text = text.replace(f"unit, sandbox{end}", f'unit, sandbox, from_file("{LATER}"){end}')
    task.write_text(text)


def roll_back(pi: VirtualPi, project: Path, *more: str) -> Outcome:
    return run("make", "rollback", f"VIRTUAL_PI={pi.name}", *more, cwd=project)


def test_rollback_brings_back_every_byte_and_services_run_with_it(
    pi: VirtualPi, project: Path
) -> None:
    whole_deploy(pi, project)
    before, last = ours(pi), records(pi)[-1]
    assert last["commit"] == git(project, "rev-parse", "HEAD")
    change(project)
    settings = ("--data", "redis_port=7000", "--data", "firewall_allow=9100/tcp")
    changed = pyinfra(pi, "--json", "-y", *settings, *WHAT, cwd=project)
    assert {"Worker | Configure", "Redis | Run", "Worker | Run"} <= changed.changed
    assert "its source is changed; commit it and deploy again" in changed.stderr
    assert worker(pi) == ["5", "513"]
    assert ours(pi) != before
    back = roll_back(pi, project)
    assert back.status == 0, back.output
    assert "SUCCESS" in back.output
    assert ours(pi) == before
    assert worker(pi) == ["0", "512"]
    assert redis(pi, "config", "get", "port").split() == ["port", "6379"]
    assert "9100" not in pi.run("ufw", "show", "added").stdout
    pids(pi)
    *_, dirty, newest = records(pi)
    assert newest["what"] == ["rollback.py", "deploy.py"]
    assert (newest["result"], newest["commit"]) == ("completed", last["commit"])
    assert deploy(pi).changed == set()
    refused = roll_back(pi, project, f"TO={int(dirty['number'])}")
    assert refused.status != 0
    assert f"deploy {int(dirty['number'])} had changes that were not committed" in refused.output
    assert records(pi)[-1] == newest
    assert git(project, "for-each-ref", "refs/celery-pi") == ""


def worker(pi: VirtualPi) -> list[str]:
    """What the running worker was started with: `Nice` and `TasksMax`."""
    shown = pi.run("systemctl", "show", "-P", "Nice,TasksMax", "celery-worker").stdout
    return sorted(shown.split())
