"""Managed by celery-pi. What several checks look at, each read once."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from celery_pi_checks import manifest
from celery_pi_checks.registry import CannotLook
from celery_pi_checks.resp import Connection, Refused, Unreadable, login

PATIENCE = 1  # seconds that Redis may take to answer
COMMAND_PATIENCE = 10  # seconds for a program; an emulated Pi starts one in 0.1
PROPERTIES = (
    *("Id", "ActiveState", "SubState", "MainPID", "NRestarts", "ActiveEnterTimestampMonotonic"),
    *("ControlGroup", "Result"),
)
OF_SERVICES = (
    *("Id", "User", "DynamicUser", "PermissionsStartOnly", "EnvironmentFiles"),
    *("WorkingDirectory", "AmbientCapabilities", "ExecConditionEx", "ExecStartPreEx"),
    *("ExecStartEx", "ExecStartPostEx", "ExecReloadEx", "ExecStopEx", "ExecStopPostEx"),
)
SSH = 22
IPV6 = Path("/proc/sys/net/ipv6")
RESTART_REDIS = "journalctl -u redis-server -n 50; systemctl restart redis-server"


class Look:
    """This Pi, as the deployed settings describe it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self._connections: dict[str, Connection] = {}
        self._silent = ""
        self._refused: dict[str, str] = {}

    def key(self, name: str) -> str:
        """Name of a key of the app's in Redis."""
        return f"{self.settings['redis_key_prefix']}{name}"

    def ask(self, *words: str, user: str = "monitor") -> Any:
        """Redis' reply in the app's database. Once it was silent, it is asked no more, and so it
        is by a user whose password it did not take: each try counts as an attack."""
        if self._silent:
            raise CannotLook(self._silent, RESTART_REDIS)
        if user in self._refused:
            raise CannotLook(self._refused[user], "deploy again")
        try:
            return self.connection(user).ask(*words)
        except Refused as error:
            raise CannotLook(f"Redis refuses: {error}", "deploy again") from error
        except Unreadable as error:
            self._connections.pop(user, None)  # another question may still be answered
            raise CannotLook(f"Redis answers nonsense: {error}", RESTART_REDIS) from error
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            self._silent = f"Redis does not answer: {reason}"
            raise CannotLook(self._silent, RESTART_REDIS) from error

    def connection(self, user: str) -> Connection:
        """The one connection of that user."""
        if user not in self._connections:
            try:
                connection = login(user, PATIENCE)
            except Refused as error:
                self._refused[user] = f"Redis refuses: {error}"
                raise
            database = str(self.settings["redis_database"])
            if database != "0":
                connection.ask("SELECT", database)
            self._connections[user] = connection
        return self._connections[user]

    @cached_property
    def info(self) -> dict[str, str]:
        """What Redis tells about itself."""
        lines = self.ask("INFO").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def number(self, name: str) -> int:
        """A figure of INFO."""
        return int(self.info[name])

    @cached_property
    def filters(self) -> dict[int, str]:
        """The kernel's filter of each version of IP that it has."""
        programs = {4: "iptables-save"}
        if IPV6.exists():
            programs[6] = "ip6tables-save"
        return {version: output(name, "-t", "filter") for version, name in programs.items()}

    @cached_property
    def ssh_ports(self) -> set[int]:
        """Where ssh comes in: its server listens there, or systemd for it."""
        listening = output("ss", "-Hltnp").splitlines()
        found = [line.split()[3] for line in listening if re.search(r'"(sshd|dropbear)"', line)]
        held = output("systemctl", "show", "-P", "ActiveState", "-P", "Listen", "ssh.socket")
        if "active" in held.split():
            found += re.findall(r"(\S+) \(Stream\)", held)
        return {int(end.rpartition(":")[2]) for end in found} or {SSH}

    @cached_property
    def services(self) -> str:
        """What systemd says of every service that it has loaded, of ours and of others."""
        return output("systemctl", "show", "--all", "-p", ",".join(OF_SERVICES), "*.service")

    @cached_property
    def units(self) -> dict[str, dict[str, str]]:
        """What systemd says of each unit of ours, by its name without `.service`."""
        return shown(PROPERTIES)


def shown(properties: Sequence[str]) -> dict[str, dict[str, str]]:
    """What systemd says of each unit of ours. CannotLook where no deploy has noted any."""
    names = list(manifest.units())
    if not names:  # without one, systemd would tell of itself
        raise CannotLook(f"{manifest.FILE} names no units", "deploy again")
    blocks = output("systemctl", "show", "-p", ",".join(properties), *names).strip().split("\n\n")
    found = [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]
    return {unit["Id"].removesuffix(".service"): unit for unit in found}


def output(*command: str, patience: float = COMMAND_PATIENCE) -> str:
    """What a program prints; FileNotFoundError where there is none of that name."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        told = f"{command[0]} does not end within {patience} s"
        raise CannotLook(told, "restart the machine if it stays so") from error
    if done.returncode:
        told = f"{command[0]} ended with {done.returncode}"
        raise CannotLook(told, f"run it by hand: {' '.join(command[:2])}")
    return done.stdout
