"""Managed by celery-pi. Redis' settings: in its files, in the running server, and on its port."""

from __future__ import annotations

import re
import shutil
import socket
from functools import partial
from pathlib import Path

from celery_pi_tools.checks.registry import Finding, Function, check, ok, problem, wrong
from celery_pi_tools.checks.repairs import all_of, rewrite
from celery_pi_tools.config import size_in_bytes
from celery_pi_tools.system import System

AT_START = Path("/etc/celery-pi/redis.conf")
LIVE = Path("/etc/celery-pi/redis-live.conf")
PATIENCE = 2  # seconds
SET_IT = "deploy again; or celery-pi doctor --fix"
LOOPBACK = re.compile(r"^-A .*(-i lo\b|127\.)")
Changes = dict[str, tuple[str, str]]


def settings_by_file(system: System) -> dict[Path, dict[str, str]]:
    """The deployed settings in each file on which tasks depend."""
    tls, by_socket = system.settings["redis_tls"], system.settings["redis_socket"]
    port = {"port": "0" if tls or by_socket else str(system.settings["redis_port"])}
    tls_port = {"tls-port": str(system.settings["redis_tls_port"])} if tls else {}
    live = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "900 1 300 10 60 10000",
        "maxmemory": str(size_in_bytes(system.settings["redis_maxmemory"])),
        "maxmemory-policy": system.settings["redis_maxmemory_policy"],
        "timeout": "0",
    }
    start = {"bind": "127.0.0.1 -::1", "protected-mode": "yes", **port, **tls_port}
    return {AT_START: start, LIVE: live}


def deployed(system: System) -> dict[str, str]:
    """All of them."""
    return {
        name: value for each in settings_by_file(system).values() for name, value in each.items()
    }


def configured(name: str) -> Function:
    """A check of that setting in the running server."""

    def judge(system: System) -> Finding:
        current, expected = system.config(name), deployed(system)[name]
        return (
            ok(current)
            if current == expected
            else wrong(f"{current or 'nothing'}, not {expected}", SET_IT)
        )

    return judge


for title, setting in (
    ("Protected mode", "protected-mode"),
    ("Addresses", "bind"),
    ("Append-only file", "appendonly"),
    ("What goes when memory is full", "maxmemory-policy"),
):
    check("Redis", title, "audit")(configured(setting))


def described(changes: Changes) -> str:
    """Each setting as it is, and as it was deployed."""
    return "; ".join(
        f"{name} is {now}, not {expected}" for name, (now, expected) in changes.items()
    )


@check("Redis' settings", "Redis' files were changed", "doctor", after=("Permissions",))
def in_files(system: System) -> Finding | None:
    changes_by_file = {
        path: in_file(path, values) for path, values in settings_by_file(system).items()
    }
    if not any(changes_by_file.values()):
        return None
    return problem(
        "; ".join(
            f"{path}: {described(changes)}" for path, changes in changes_by_file.items() if changes
        ),
        "the next start of Redis goes by it: clients do not find it, or tasks are lost",
        "write back what was deployed",
        all_of(
            *(partial(write, path, changes) for path, changes in changes_by_file.items() if changes)
        ),
        files=tuple(str(path) for path, changes in changes_by_file.items() if changes),
    )


def in_file(path: Path, values: dict[str, str]) -> Changes:
    """Settings that differ in the file; Redis uses the last of several lines."""
    lines = [line.split(maxsplit=1) for line in path.read_text().splitlines()]
    current = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    current_values = {name: current.get(name, "missing") for name in values}
    return {
        name: (now, values[name]) for name, now in current_values.items() if now != values[name]
    }


def write(path: Path, changes: Changes) -> None:
    rewrite(str(path), "root", partial(with_lines, changes=changes))


def with_lines(text: bytes, changes: Changes) -> bytes:
    """The text with these lines, each once."""
    for name, (_, value) in changes.items():
        line = re.compile(rf"^{name}\s.*\n".encode(), re.MULTILINE)
        first, text = line.search(text), line.sub(b"", text)
        place = first.start() if first else len(text)
        text = text[:place] + f"{name} {value}\n".encode() + text[place:]
    return text


@check(
    "Redis' settings",
    "Redis was told other settings",
    "doctor",
    after=("Redis", "Redis' files were changed"),
)
def in_server(system: System) -> Finding | None:
    running = {name: (system.config(name), expected) for name, expected in deployed(system).items()}
    changes = {
        name: (now, expected) for name, (now, expected) in running.items() if now != expected
    }
    if not changes:
        return None
    return problem(
        f"in the running server {described(changes)}",
        "clients do not find it, or it loses tasks when it ends or its memory is full",
        "set what was deployed; it is not started again for it",
        lambda: set_back(system.refresh(), changes),
    )


def set_back(system: System, changes: Changes) -> None:
    for name, (_, value) in changes.items():
        system.ask("CONFIG", "SET", name, value, user="admin")


@check(
    "Redis' settings", "Redis' port cannot be reached", "doctor", after=("Redis", "Redis' settings")
)
def unreachable(system: System) -> Finding | None:
    if system.settings["redis_socket"]:
        return None
    port = system.settings["redis_tls_port" if system.settings["redis_tls"] else "redis_port"]
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except OSError as error:
        reason = error.strerror or "no answer"
        return problem(
            f"127.0.0.1:{port} cannot be reached ({reason}), while Redis answers by its socket",
            "the site cannot send tasks; the worker, which uses the socket, does not notice",
            f"a firewall is in the way: {'; '.join(in_the_way(system)) or 'see iptables-save'}; "
            "remove that rule, or ufw reload",
            grace=2,
        )
    return None


def in_the_way(system: System) -> list[str]:
    """Rules that block loopback."""
    if not shutil.which("iptables-save"):
        return []
    rules = system.filters[4].splitlines()
    return [rule for rule in rules if LOOPBACK.search(rule) and "-j ACCEPT" not in rule]
