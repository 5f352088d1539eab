"""The sandbox: what the services leave open, what it refuses, and that they do their work in it.

On a machine of this host's own platform, where system calls are filtered in earnest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from celery_pi.render import from_template
from celery_pi.settings import Settings
from tests.helpers.harness import APP, deploy, exposure, in_app, pids, prove
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

# Redis' own figure is in test_redis.py; the watches over it are root, without a capability.
LIMITS = {
    **{"celery-worker": 1.2, "celery-beat": 0.4, "celery-flower": 0.4},
    **{"redis-memory": 0.5, "celery-beat-clock": 0.5},
    # Root, who becomes two others.
    **{"celery-pi-backup": 1.4, "celery-pi-drill": 1.4},
}
WITHOUT_NETWORK = 0.4

SANDBOX = "/etc/systemd/system/celery-worker.service.d/sandbox.conf"
# The app's user may write there; only the sandbox keeps him from it.
OPEN = ("/etc/open", "/srv/open", "/var/lib/open", f"{APP}/data")
RUN_IT = "cp /usr/bin/true {0}/program && {0}/program"


def probes(pi: VirtualPi, *asked: tuple[Any, ...]) -> list[Any]:
    """What the deployed worker's probe tasks answer: each a name and its arguments."""
    code = (
        "import json; from observations_nids import probes\n"
        f"for name, *given in {asked!r}:\n"
        "    print(json.dumps(getattr(probes, name).delay(*given).get(timeout=30)))"
    )
    return [json.loads(line) for line in in_app(pi, code).splitlines()]


@pytest.fixture(scope="module", autouse=True)
def _open_directories(pi: VirtualPi) -> Iterator[None]:
    pi.run("install", "-d", "-m", "0777", *OPEN[:-1])
    yield
    pi.run("rm", "-r", *OPEN[:-1])


FORBIDDEN = {
    **{f"write to {path}": ("write", f"{path}/new") for path in OPEN},
    "trace": ("call", "ptrace"),
    "a namespace of its own": ("call", "unshare"),
    "writable machine code": ("machine_code",),
    "run what it wrote to media": ("run", "sh", "-c", RUN_IT.format(f"{APP}/media")),
    "run what it wrote to /tmp": ("run", "sh", "-c", RUN_IT.format("/tmp")),  # noqa: S108
    "see the site's processes": ("run", "sh", "-c", "test -e /proc/1/stat"),
    "see the machine's memory": ("run", "cat", "/proc/meminfo"),
}
ALLOWED = {
    "write media": ("write", f"{APP}/media/new"),
    "write logs": ("write", f"{APP}/logs/new"),
    "write /tmp": ("write", "/tmp/mark"),  # noqa: S108
    "run a program": ("run", "/usr/bin/id", "-un"),
    "be called back from C": ("callback",),
}


def test_units_leave_open_no_more_than_their_limits(pi: VirtualPi) -> None:
    ours = "grep -l 'Managed by celery-pi' /etc/systemd/system/*.service"
    units = {path.split("/")[-1].split(".")[0] for path in pi.run("sh", "-c", ours).stdout.split()}
    assert units == set(LIMITS), "a unit without a limit"
    found = {unit: exposure(pi, unit) for unit in LIMITS}
    assert {unit: figure for unit, figure in found.items() if figure > LIMITS[unit]} == {}


def test_units_pass_systemds_own_check(pi: VirtualPi) -> None:
    done = pi.run("systemd-analyze", "verify", "--man=no", *(f"{unit}.service" for unit in LIMITS))
    assert done.stdout + done.stderr == ""


def test_tasks_do_what_tasks_do(pi: VirtualPi) -> None:
    answers = dict(zip(ALLOWED, probes(pi, *ALLOWED.values()), strict=True))
    assert answers == {
        **dict.fromkeys(ALLOWED, "ok"),
        "run a program": "www-data",
        "be called back from C": [1, 2, 3],
    }
    assert pi.run("stat", "-c", "%U", f"{APP}/media/new", f"{APP}/logs/new").stdout == (
        "www-data\n" * 2
    )
    there = pi.run("test", "-e", "/tmp/mark", check=False)  # noqa: S108
    assert there.returncode == 1, "it is the machine's /tmp"


def test_all_else_is_refused(pi: VirtualPi) -> None:
    answers = dict(zip(FORBIDDEN, probes(pi, *FORBIDDEN.values()), strict=True))
    refusals = {"EROFS", "EPERM", "EACCES", "status 1", "status 126"}
    assert {what: answer for what, answer in answers.items() if answer not in refusals} == {}
    assert [answers[f"write to {path}"] for path in OPEN] == ["EROFS"] * len(OPEN)


def test_without_the_sandbox_all_of_it_is_possible(pi: VirtualPi) -> None:
    """Or the tests above could not fail."""
    pi.run("mv", SANDBOX, f"{SANDBOX}.off")
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "restart", "celery-worker")
    assert exposure(pi, "celery-worker") > 8
    answers = dict(zip(FORBIDDEN, probes(pi, *FORBIDDEN.values()), strict=True))
    assert {what for what, answer in answers.items() if answer in {"EROFS", "EPERM", "EACCES"}} == (
        set()
    )
    assert "status" not in " ".join(answers.values())
    pi.run("rm", f"{SANDBOX}.off", *(f"{path}/new" for path in OPEN))
    assert deploy(pi).changed == {"Worker | Configure", "Worker | Run"}


def test_network_is_the_workers_only_if_its_tasks_need_it(
    pi: VirtualPi, fresh_native_pi: VirtualPi
) -> None:
    ssh = ("connect", fresh_native_pi.address, 22)
    assert probes(pi, ssh) == ["ok"]
    closed = {"worker_network": False}
    assert deploy(pi, **closed).changed == {
        *("Worker | Configure", "Worker | Run", "Command | Install celery-pi")
    }
    assert exposure(pi, "celery-worker") <= WITHOUT_NETWORK
    assert probes(pi, ssh, ("connect", "127.0.0.1", 22)) == ["EAFNOSUPPORT"] * 2
    assert "SUCCESS" in prove(pi)
    answers = dict(zip(ALLOWED, probes(pi, *ALLOWED.values()), strict=True))
    assert answers["write media"] == answers["write logs"] == "ok"
    assert deploy(pi).status == 0
    assert probes(pi, ssh) == ["ok"]


def test_beat_reaches_nothing_and_writes_logs_alone(
    pi: VirtualPi, fresh_native_pi: VirtualPi
) -> None:
    code = f"import socket; socket.create_connection(('{fresh_native_pi.address}', 22), 5)"

    def within(unit: str, *command: str) -> str:
        """What a command says in the namespaces of a unit's main process."""
        done = pi.run("nsenter", "-n", "-m", "-t", pids(pi)[unit], *command, check=False)
        return "ok" if done.returncode == 0 else done.stderr

    assert within("celery-worker", "python3", "-c", code) == "ok"
    assert "unreachable" in within("celery-beat", "python3", "-c", code)
    assert within("celery-beat", "touch", f"{APP}/logs/beat.log") == "ok"
    assert "Read-only file system" in within("celery-beat", "touch", f"{APP}/data/x")


def test_missing_directory_does_not_keep_the_worker_from_starting(pi: VirtualPi) -> None:
    wanted = {"app_writable": "media,logs,/srv/photos"}
    assert deploy(pi, **wanted).status == 0
    assert probes(pi, ("write", "/srv/photos/new")) == ["ENOENT"]
    pi.run("install", "-d", "-o", "www-data", "/srv/photos")
    pi.run("systemctl", "restart", "celery-worker")
    assert probes(pi, ("write", "/srv/photos/new")) == ["ok"]
    pi.run("rm", "-r", "/srv/photos")
    assert deploy(pi).status == 0


AT_HOME = """
[Service]
Type=oneshot
User=www-data
WorkingDirectory=/home/pi/site
ExecStart=/usr/bin/python3 -c "import os; [os.system('touch ' + path) for path in {paths}]"
"""


def test_app_in_a_home_directory_works_and_sees_no_other(pi: VirtualPi) -> None:
    """With a unit of its own: the machine's app lies elsewhere."""
    sandbox = from_template(
        SANDBOX,
        settings=Settings(app_dir="/home/pi/site", app_writable=("media", "/home/pi/photos")),
    )
    allowed = ["/home/pi/site/media/new", "/home/pi/photos/new"]
    refused = ["/home/pi/site/new", "/home/pi/private/new"]
    unit = AT_HOME.format(paths=allowed + refused)
    directories = [path.rpartition("/")[0] for path in allowed + refused]
    pi.run("install", "-d", "-o", "www-data", "/home/pi/site/venv", *directories)
    pi.run("chmod", "0700", "/home/pi")
    pi.run("mkdir", "-p", "/run/systemd/system/at-home.service.d")
    for name, content in ((".service", unit), (".service.d/sandbox.conf", sandbox.content)):
        pi.run("sh", "-c", f"cat >/run/systemd/system/at-home{name}", input=content.encode())
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "start", "at-home")
    found = pi.run("find", "/home/pi", "-name", "new").stdout.split()
    assert sorted(found) == sorted(allowed)
    pi.run(
        "sh",
        "-c",
        "rm -r /home/pi/site /home/pi/photos /home/pi/private /run/systemd/system/at-home*",
    )
    pi.run("systemctl", "daemon-reload")


FLOWER = "/etc/systemd/system/celery-flower.service"
MOVE = f"""
set -e
install -d -m 0700 -o pi /home/pi
install -d /home/pi/site
cp -a {APP}/venv /home/pi/site/
sed -i '1s,{APP},/home/pi/site,' /home/pi/site/venv/bin/celery
cat >/run/systemd/system/at-home.service
systemctl daemon-reload
systemctl stop celery-flower
"""


def test_flower_starts_with_its_packages_in_a_home_directory(pi: VirtualPi) -> None:
    unit = from_template(FLOWER, settings=Settings(app_dir="/home/pi/site")).content
    elsewhere = unit.replace("ProtectHome=tmpfs", "ProtectHome=yes")
    assert elsewhere != unit
    started = []
    for content in (unit, elsewhere):
        pi.run("sh", "-c", MOVE, input=content.encode())
        started.append(pi.run("systemctl", "start", "at-home", check=False).returncode == 0)
        pi.run("systemctl", "stop", "at-home")
    pi.run("rm", "-r", "/home/pi/site", "/run/systemd/system/at-home.service")
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "start", "celery-flower")
    assert started == [True, False]
