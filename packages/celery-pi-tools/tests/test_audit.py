"""Checks of `celery-pi audit` that ask programs of the machine: what they make of the answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from celery_pi.settings import Settings
from celery_pi_tools import redis_client
from celery_pi_tools.checks import network, packages, redis_users, updates
from celery_pi_tools.system import System
from tests.helpers.fake import Programs

pytestmark = pytest.mark.fast

FIRST = "/usr/lib/systemd/systemd"  # the program of process 1

# As ufw has the kernel hold it: 22, 80 and 443 open.
FILTER = """*filter
:INPUT DROP [4:240]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -j ufw{v}-before-logging-input
-A INPUT -j ufw{v}-before-input
-A ufw{v}-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw{v}-before-input -j ufw{v}-user-input
-A ufw{v}-user-input -p tcp -m tcp --dport 22 -j ACCEPT
-A ufw{v}-user-input -p tcp -m tcp --dport 80 -j ACCEPT
-A ufw{v}-user-input -p tcp -m tcp --dport 443 -j ACCEPT
COMMIT
"""
# 22 limited, as it is without bans.
LIMIT = """-m conntrack --ctstate NEW -m recent --set
-A ufw{v}-user-input -p tcp -m tcp --dport 22 -m recent --update --seconds 30 -j ufw{v}-user-limit
-A ufw{v}-user-input -p tcp -m tcp --dport 22 -j ufw{v}-user-limit-accept"""
OPEN = "--dport 22 -j ACCEPT"
ADD = "-A ufw{v}-user-input"


def look_at(**settings: Any) -> Any:
    return System(Settings(**settings).model_dump(mode="json"))


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Has a program say that, and nothing else."""
    programs = Programs(tmp_path, monkeypatch)
    return lambda name, text: programs.add(name, f"cat <<'END'\n{text.rstrip()}\nEND")


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a process with that program and user. Needs root."""
    monkeypatch.setattr("celery_pi_tools.system.PROC", tmp_path / "proc")

    def add(pid: int, program: str, user: int) -> None:
        directory = tmp_path / "proc" / str(pid)
        directory.mkdir(parents=True)
        (directory / "exe").symlink_to(program)
        os.chown(directory, user, user)

    add(1, FIRST, 0)
    return add


@pytest.fixture
def firewall() -> Callable[..., Any]:
    """What the check says of that filter, the same by both versions of IP or with one changed."""

    def judge(old: str = "", new: str = "", only: int = 0, **settings: Any) -> Any:
        system = look_at(**settings)
        system.filters, system.ssh_ports = {}, {22}
        for version, v in ((4, ""), (6, "6")):
            text = FILTER if only not in (0, version) else FILTER.replace(old, new)
            system.filters[version] = text.replace("{v}", v)
        return network.firewall(system)

    return judge


def test_firewall_as_deployed_is_well(firewall: Callable[..., Any]) -> None:
    told = firewall()
    assert (told.level, told.evidence) == (
        "ok",
        "lets in 22/tcp, 80/tcp, 443/tcp, and nothing else",
    )
    assert firewall(firewall=False).level == "warn"


@pytest.mark.parametrize("only", [0, 4, 6])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (":INPUT DROP", ":INPUT ACCEPT"),
        ("-A INPUT -j ufw{v}-before-input\n", ""),
        ("-A ufw{v}-before-input -j ufw{v}-user-input\n", ""),
        (f"{ADD} -p tcp -m tcp --dport 443 -j ACCEPT\n", ""),
        ("--dport 80 -j ACCEPT", "--dport 80 -j DROP"),
        (f"{ADD} -p tcp -m tcp {OPEN}\n", ""),
        (f"{ADD} -p tcp -m tcp --dport 80 -j", f"{ADD} -s 10.0.0.0/8 -p tcp -m tcp --dport 80 -j"),
    ],
)
def test_firewall_that_is_not_in_force_is_wrong(
    firewall: Callable[..., Any], old: str, new: str, only: int
) -> None:
    assert old in FILTER
    assert firewall(old, new, only).level == "wrong"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("-p udp -m udp --dport 53 -j ACCEPT", "53/udp"),
        ("-s 10.0.0.0/8 -p tcp -m tcp --dport 8000 -j ACCEPT", "8000/tcp from 10.0.0.0/8"),
        ("-s 10.0.0.7/32 -p tcp -m tcp --dport 8000 -j ACCEPT", "8000/tcp from 10.0.0.7"),
        ("-p tcp -m multiport --dports 1:9 -j ACCEPT", "0/-p tcp -m multiport --dports 1:9"),
        ("-j ACCEPT", "0/all"),
    ],
)
def test_rule_that_nobody_declared_is_told(
    firewall: Callable[..., Any], rule: str, text: str
) -> None:
    told = firewall("COMMIT", f"{ADD} {rule}\nCOMMIT", 4)
    assert told.level == "warn"
    assert told.evidence.endswith(f"; not declared: {text}")
    if text[0] != "0":
        only = 4 if "from" in text else 0
        declared = firewall("COMMIT", f"{ADD} {rule}\nCOMMIT", only, firewall_allow=[text])
        assert (declared.level, text in declared.values["open"]) == ("ok", True)


def test_owners_rule_that_the_kernel_lacks_is_missed(firewall: Callable[..., Any]) -> None:
    told = firewall(firewall_allow=["8000/tcp"])
    assert (told.level, told.evidence) == ("wrong", "8000/tcp does not come in by IPv4")


def test_ssh_is_limited_where_there_are_no_bans_but_for_who_deploys(
    firewall: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = f"--dport 22 {LIMIT}"
    assert firewall(OPEN, limit).level == "ok", "which an owner may have of his own"
    assert firewall(OPEN, limit, bans=False).level == "ok"
    assert firewall(bans=False).evidence == "without bans, nothing limits who tries ssh by IPv4"
    near = f"--dport 22 {LIMIT}\n{ADD} -s 192.0.2.7/32 -p tcp -m tcp --dport 22 -j ACCEPT"
    monkeypatch.setattr(network, "ADMIN_ADDRESSES", tmp_path / "deployers")
    assert firewall(OPEN, near, bans=False).evidence.endswith("not declared: 22/tcp from 192.0.2.7")
    (tmp_path / "deployers").write_text("192.0.2.7\n")
    assert firewall(OPEN, near, bans=False).level == "ok"


@pytest.mark.parametrize(
    ("socket", "ports"),
    [
        ("inactive\n[::]:22 (Stream)", {2222}),
        ("active\n0.0.0.0:22 (Stream)\n[::]:24 (Stream)", {22, 24, 2222}),
    ],
)
def test_ssh_comes_in_where_its_server_or_systemd_listens(
    answer: Callable[[str, str], None],
    processes: Callable[..., None],
    socket: str,
    ports: set[int],
) -> None:
    processes(9, "/usr/sbin/sshd", 0)
    sshd = 'LISTEN 0 128 0.0.0.0:2222 0.0.0.0:* users:(("sshd",pid=9,fd=6))'
    answer("ss", f'{sshd}\nLISTEN 0 128 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=8,fd=6))')
    answer("systemctl", socket)
    assert look_at().ssh_ports == ports
    answer("ss", "")
    answer("systemctl", "inactive")
    assert look_at().ssh_ports == {22}


@pytest.mark.parametrize(
    ("program", "user", "ports"),
    [
        ("/usr/sbin/sshd", 0, {2222}),
        ("/usr/sbin/sshd (deleted)", 0, {2222}),
        ("/usr/sbin/dropbear", 0, {2222}),
        (FIRST, 0, {2222}),
        ("/usr/sbin/sshd", 33, {22}),
        ("/usr/bin/python3.13", 33, {22}),
        ("/usr/bin/su", 0, {22}),
    ],
)
def test_process_that_only_has_the_name_is_no_ssh_server(
    answer: Callable[[str, str], None],
    processes: Callable[..., None],
    program: str,
    user: int,
    ports: set[int],
) -> None:
    processes(9, program, user)
    answer("ss", 'LISTEN 0 128 0.0.0.0:2222 0.0.0.0:* users:(("sshd",pid=9,fd=6))')
    answer("systemctl", "inactive")
    assert look_at().ssh_ports == ports


def test_name_of_a_process_names_no_other_process(
    answer: Callable[[str, str], None],
    processes: Callable[..., None],  # noqa: ARG001
) -> None:
    name = 'sshd",pid=1,fd='
    assert len(name) == 15, "as many as the kernel keeps"
    answer("ss", f'LISTEN 0 128 0.0.0.0:2222 0.0.0.0:* users:(("{name}",pid=9,fd=6))')
    answer("systemctl", "inactive")
    assert look_at().ssh_ports == {22}


def test_ports_that_others_may_reach_are_the_declared() -> None:
    system = look_at(firewall_allow=["8000/tcp", "9100/tcp from 10.0.0.1", "53/udp"])
    system.ssh_ports = {22, 2222}
    assert network.public_ports(system) == {22, 80, 443, 2222, 8000, 9100}


@pytest.mark.parametrize(
    ("listed", "state"),
    [
        ("sshd, celery-pi-flower, of-the-owner", "ok"),
        ("sshd, of-the-owner", "wrong"),
        ("", "wrong"),
    ],
)
def test_jail_that_is_missing_is_named(
    answer: Callable[[str, str], None], listed: str, state: str
) -> None:
    answer("fail2ban-client", f"Status\n`- Jail list:\t{listed}\n")
    told = network.bans(look_at())
    assert told.level == state
    assert ("celery-pi-flower" in told.evidence) is True
    assert network.bans(look_at(bans=False)).level == "warn"


# -- Redis


def entry(reason: str = "auth", name: str = "celery", number: int = 1, age: float = 9) -> list[Any]:
    """Of ACL LOG, as Redis 8.0 has it."""
    return [
        *("count", number, "reason", reason, "context", "toplevel", "object", "AUTH"),
        *("username", name, "age-seconds", str(age), "client-info", "id=7 addr=127.0.0.1:4000"),
        *("entry-id", 3, "timestamp-created", 1700000000000, "timestamp-last-updated", 1),
    ]


@pytest.mark.parametrize(
    ("entries", "evidence"),
    [
        ([], "none within a day"),
        ([entry("key"), entry("command"), entry(age=86401)], "none within a day"),
        ([entry()], "1 try within a day: 1 as celery"),
        (
            [entry(number=4), entry(name="celery", age=80000), entry(name="default", number=2)],
            "7 tries within a day: 5 as celery, 2 as default",
        ),
        (
            [entry(name="my-password"), entry(name="\x1b[2J", number=2), entry(name="Celery")],
            "4 tries within a day: 4 as another name",
        ),
    ],
)
def test_failed_logins_to_redis_are_counted(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    entries: list[Any],
    evidence: str,
) -> None:
    """A name that no user has may be a password, and is not shown."""
    monkeypatch.setattr(redis_client, "SECRETS", str(tmp_path))
    system = look_at()
    monkeypatch.setattr(system, "ask", lambda *words: entries if words[:2] == ("ACL", "LOG") else 0)
    told = redis_users.failed_logins(system)
    assert told.evidence == evidence
    assert told.level == ("ok" if evidence.startswith("none") else "warn")
    assert "my-password" not in repr(told)


@pytest.mark.parametrize(
    ("ago", "changed", "state"),
    [(60, 90, "ok"), (60, 650, "ok"), (60, 670, "warn"), (90, 60, "warn")],
)
def test_tries_of_ours_while_a_password_changes_are_no_failed_logins(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    ago: int,
    changed: int,
    state: str,
) -> None:
    monkeypatch.setattr(redis_client, "SECRETS", str(tmp_path))
    password = tmp_path / "redis_admin_password"
    password.touch()
    os.utime(password, (time.time() - changed, time.time() - changed))
    system = look_at()
    monkeypatch.setattr(system, "ask", lambda *_: [entry(name="admin", number=8, age=ago)])
    assert redis_users.failed_logins(system).level == state


# -- updates

ASKED = 'APT::Periodic::{} "always";\n'


@pytest.mark.parametrize(
    ("timer", "configuration", "state"),
    [
        ("active", ("Update-Package-Lists", "Unattended-Upgrade"), "ok"),
        ("inactive", ("Update-Package-Lists", "Unattended-Upgrade"), "wrong"),
        ("active", ("Update-Package-Lists",), "wrong"),
    ],
)
def test_updates_that_do_not_come_are_told(
    answer: Callable[[str, str], None],
    timer: str,
    configuration: tuple[str, ...],
    state: str,
) -> None:
    answer("systemctl", f"active\n{timer}")
    texts = "".join(ASKED.format(name) for name in configuration)
    answer("apt-config", texts + 'Unattended-Upgrade::Origins-Pattern:: "Debian-Security";')
    assert updates.automatic(look_at()).level == state
    assert updates.automatic(look_at(updates=False)).level == "warn"


PENDING = """NOTE: This is only a simulation!
Inst libssl3t64 [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [arm64])
Inst tzdata [2025b-4] (2025b-4+deb13u1 Debian:13.1/stable [all])
Conf libssl3t64 (3.5.1-1+deb13u1 Debian-Security:13/stable-security [arm64])
"""


@pytest.mark.parametrize(
    ("plan", "days", "automatic", "state", "waiting"),
    [
        ("", 0, True, "ok", []),
        ("", 4, True, "warn", []),
        (PENDING, 0, True, "warn", ["libssl3t64"]),
        (PENDING, 4, True, "wrong", ["libssl3t64"]),
        (PENDING, 0, False, "wrong", ["libssl3t64"]),
        (PENDING.replace("Debian-Security", "Debian").replace("-security", ""), 0, True, "ok", []),
    ],
)
def test_security_fixes_that_wait_are_counted(
    answer: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plan: str,
    days: int,
    automatic: bool,
    state: str,
    waiting: list[str],
) -> None:
    answer("apt-get", plan)
    stamp, fetched = tmp_path / "upgrade-stamp", tmp_path / "of-an-archive_Packages"
    for file in (stamp, fetched):
        file.touch()
        os.utime(file, (0, time.time() - days * 86400))
    monkeypatch.setattr(updates, "LISTS", tmp_path)
    monkeypatch.setattr(updates, "LAST_UPGRADE", stamp)
    told = updates.security(look_at(updates=automatic))
    assert (told.level, told.values["packages"]) == (state, waiting)


@pytest.mark.parametrize(
    ("line", "state", "named"),
    [
        ("install installed ok", "ok", ""),
        ("deinstall config-files ok", "ok", ""),
        ("hold installed ok", "warn", "nginx"),
        ("install half-configured ok", "wrong", "nginx"),
        ("install installed reinstreq", "wrong", "nginx"),
    ],
)
def test_package_that_is_held_or_broken_is_named(
    answer: Callable[[str, str], None], line: str, state: str, named: str
) -> None:
    answer("dpkg-query", f"install installed ok dpkg\n{line} nginx\n")
    told = packages.states(None)
    assert (told.level, named in told.evidence) == (state, True)


@pytest.mark.parametrize(("days", "state"), [(-1, "wrong"), (0, "warn"), (89, "warn"), (91, "ok")])
def test_end_of_life_is_told_three_months_before(days: int, state: str) -> None:
    end = date.today() + timedelta(days=days)
    assert updates.until("It", end.isoformat(), "move").level == state


@pytest.mark.parametrize(
    ("version", "state"),
    [
        *(("3.2.25", "wrong"), ("4.2.1", "wrong"), ("5.1.4", "wrong"), ("5.2.19", "ok")),
        *(("9.0", "ok"), ("9.1a1", "ok"), ("10.0rc1", "ok"), ("3.10", "wrong"), ("5.1b1", "wrong")),
    ],
)
def test_django_without_fixes_is_told(tmp_path: Path, version: str, state: str) -> None:
    packages = environment(tmp_path / "venv")
    (packages / f"django-{version}.dist-info").mkdir()
    told = updates.django(look_at(app_dir=str(tmp_path)))
    assert (told.level, version in told.evidence) == (state, True)
    (packages / f"django-{version}.dist-info").rmdir()
    assert updates.django(look_at(app_dir=str(tmp_path))) is None


def test_packages_are_those_of_the_environment_that_is_named(tmp_path: Path) -> None:
    for venv, version in (("venv", "3.2.25"), (".venv", "9.0")):
        (environment(tmp_path / venv) / f"django-{version}.dist-info").mkdir()

    system = look_at(app_dir=str(tmp_path), app_venv_dir=".venv")

    assert updates.django(system).level == "ok"


def test_packages_of_the_python_before_are_none_of_the_environment(tmp_path: Path) -> None:
    """As after an upgrade of Debian, which leaves both directories."""
    for python, version in (("python3.11", "3.2.25"), ("python3.13", "9.0"), ("python3.9", "4.2")):
        (environment(tmp_path / "venv", python) / f"django-{version}.dist-info").mkdir()
    (tmp_path / "venv/bin/python").unlink()
    (tmp_path / "venv/bin/python").symlink_to("python3.13")
    system = look_at(app_dir=str(tmp_path))
    assert updates.installed(system) == {"django": "9.0"}


def environment(venv: Path, python: str = "python3.13") -> Path:
    """Where the packages of an environment with that Python are."""
    packages = venv / "lib" / python / "site-packages"
    packages.mkdir(parents=True)
    (venv / "bin").mkdir(exist_ok=True)
    (venv / "bin" / python).touch()
    (venv / "bin/python").unlink(missing_ok=True)
    (venv / "bin/python").symlink_to(python)
    return packages


def test_package_of_the_app_that_is_not_as_pinned_is_named(tmp_path: Path) -> None:
    packages = environment(tmp_path / "venv")
    for name in ("celery-5.5.3", "Django_Celery.Results-2.6.0", "flower-2.0.0", "vine-5.1.10"):
        (packages / f"{name}.dist-info").mkdir()
    pins = ["celery[redis]==5.5.3", "django-celery-results==2.6.0"]

    def told(*more: str) -> Any:
        system = look_at(app_dir=str(tmp_path))
        system.settings["app_pins"] = [*pins, *more]
        return updates.pins(system)

    assert told().level == "ok"
    assert told("flower==2.0", "vine==5.1.10").level == "ok", "as a deploy has it"
    assert told("vine==5.1").evidence == "vine 5.1.10, not 5.1"
    assert told("redis==5.2.1").evidence == "redis is missing, not 5.2.1"
    pins[1] = "django-celery-results==2.5.1"
    assert told().evidence == "django-celery-results 2.6.0, not 2.5.1"


def test_users_of_redis_from_before_the_first_deploy_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_client, "SECRETS", str(tmp_path))
    system = look_at(flower=False)
    found = sorted(redis_users.USERS | {"cache"})
    system.ask = lambda *_, **__: found
    assert redis_users.users(system).evidence == "unknown: cache"
    (tmp_path / redis_users.EARLIER).write_text("user cache on nopass ~* +@all\n")
    told = redis_users.users(system)
    assert (told.level, told.evidence.partition("; ")[2]) == (
        "ok",
        "from before the first deploy: cache",
    )
    found += ["stranger"]
    assert redis_users.users(system).evidence == "unknown: stranger"
