"""An app user of its own, as docs/operate/app-user.md has it: all works, out of nginx' reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, ROOT, deploy, in_app, pids, prove, run
from tests.helpers.site import ask as ask_site
from tests.helpers.site import login
from tests.helpers.status_output import ask
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

USER = "nids"
DOCS = ROOT / "docs/operate/app-user.md"
WRITTEN = (".env", "media", "logs", "data")
YAMA = "/proc/sys/kernel/yama/ptrace_scope"
# Whoever may read this file may read the memory.
READ_MEMORY = "head -c 0 /proc/$0/mem"


@pytest.fixture(scope="module")
def moved(pi: VirtualPi) -> Iterator[VirtualPi]:
    """A machine that was moved to a user of its own, and is moved back."""
    for line in DOCS.read_text().splitlines():
        if line.startswith("sudo "):
            pi.run("sh", "-c", line.removeprefix("sudo ").replace("www-data    #", "www-data #"))
    own(pi, USER)
    assert deploy(pi, app_user=USER).status == 0
    pi.run("systemctl", "restart", "nginx")
    yield pi
    own(pi, "www-data")
    assert deploy(pi).status == 0
    pi.run("userdel", USER)
    pi.run("systemctl", "restart", "nginx")
    assert "SUCCESS" in prove(pi)


def own(pi: VirtualPi, user: str) -> None:
    pi.run("chown", "-R", f"{user}:{user}", *(f"{APP}/{name}" for name in WRITTEN))


def as_user(pi: VirtualPi, user: str, *command: str) -> int:
    done = pi.run("runuser", "-u", user, "--", *command, check=False)
    return done.returncode


def test_everything_works_and_a_second_deploy_changes_nothing(moved: VirtualPi) -> None:
    assert "SUCCESS" in prove(moved)
    assert deploy(moved, app_user=USER).changed == set()
    owners = {
        unit: moved.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip()
        for unit, pid in pids(moved).items()
    }
    assert (owners["celery-worker"], owners["celery-beat"]) == (USER, USER)
    shown = moved.run("stat", "-c", "%a %U:%G", f"{APP}/.env", "/run/redis-celery").stdout
    assert shown.split("\n")[:2] == [f"600 {USER}:{USER}", f"2750 redis:{USER}"]
    assert ask_site(moved, "/flower/", login(moved)).status == 200


def test_site_and_tasks_write_the_same_files_and_the_web_server_reads_them(
    moved: VirtualPi,
) -> None:
    code = "from observations_nids import probes; print(probes.write.delay('{}').get(timeout=30))"
    new = f"{APP}/media/of-a-task"
    assert in_app(moved, code.format(new), user=USER) == "ok"
    assert moved.run("stat", "-c", "%U %a", new).stdout == f"{USER} 640\n"
    assert as_user(moved, USER, "sh", "-c", f"echo more >>{new}") == 0
    assert as_user(moved, "www-data", "cat", new) == 0
    assert as_user(moved, "www-data", "sh", "-c", f"echo more >>{new}") != 0
    assert as_user(moved, "www-data", "cat", f"{APP}/.env") != 0
    moved.run("rm", new)


def test_app_reads_neither_nginx_memory_nor_its_secrets(moved: VirtualPi) -> None:
    worker = moved.run("pgrep", "-u", "www-data", "-x", "nginx").stdout.split()[0]
    assert as_user(moved, USER, "sh", "-c", READ_MEMORY, worker) != 0
    assert as_user(moved, USER, "cat", "/etc/nginx/celery-pi.htpasswd") != 0


def test_control_the_web_servers_own_user_reads_it_where_there_is_no_yama(
    moved: VirtualPi,
) -> None:
    worker = moved.run("pgrep", "-u", "www-data", "-x", "nginx").stdout.split()[0]
    guarded = moved.run("cat", YAMA, check=False).stdout.strip() not in ("", "0")
    assert (as_user(moved, "www-data", "sh", "-c", READ_MEMORY, worker) == 0) is not guarded


def test_audit_has_nothing_against_it(moved: VirtualPi) -> None:
    found = ask(moved, "audit")
    assert not [name for name in found.names("wrong", "warn") if "user" in name.lower()]
    assert run("make", "audit", f"VIRTUAL_PI={moved.name}").status == 0
