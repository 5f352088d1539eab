"""Managed by celery-pi. The state of this Pi that several checks need, each part read once."""

from __future__ import annotations

import re
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from celery_pi_tools import journal, manifest
from celery_pi_tools.commands import CannotRead, output
from celery_pi_tools.redis_client import Connection, Refused, Unreadable, login
from celery_pi_tools.worker_control import Answers, ask_workers

REDIS_TIMEOUT = 1  # seconds that Redis may take to answer
RECENT = 3600  # seconds
PROPERTIES = (
    *("Id", "LoadState", "ActiveState", "SubState", "Result", "UnitFileState", "Job"),
    *("NeedDaemonReload", "NRestarts", "MainPID", "ControlGroup", "ActiveEnterTimestampMonotonic"),
    *("InactiveEnterTimestampMonotonic", "ExecMainStartTimestampMonotonic"),
    *("ActiveExitTimestampMonotonic", "StatusText"),
)
SERVICE_PROPERTIES = (
    *("Id", "User", "DynamicUser", "PermissionsStartOnly", "EnvironmentFiles"),
    *("WorkingDirectory", "AmbientCapabilities", "ExecConditionEx", "ExecStartPreEx"),
    *("ExecStartEx", "ExecStartPostEx", "ExecReloadEx", "ExecStopEx", "ExecStopPostEx"),
)
WORKER_MESSAGES = (
    "Received unregistered task of type|(Soft|Hard) time limit .* exceeded for|"
    "celery-pi: |Watchdog timeout"
)
CGROUPS = Path("/sys/fs/cgroup")
MACHINE = Path("/etc/machine-id")
ACL_LOGGED = "128"  # entries of ACL LOG: all that Redis keeps, in memory
PROC = Path("/proc")
SSH = 22
SSH_SERVERS = ("sshd", "dropbear")
# Any process can take such a name (prctl(2), PR_SET_NAME). A name has 15 characters, and so cannot
# hold a whole entry with another process's PID.
NAMED_SSH = re.compile(rf'"(?:{"|".join(SSH_SERVERS)})",pid=(\d+),fd=\d+\)')
IPV6 = Path("/proc/sys/net/ipv6")
RESTART_REDIS = "journalctl -u redis-server -n 50; systemctl restart redis-server"


class System:
    """This Pi at one moment, as the deployed settings describe it.

    `concerned` are the files of problems that were found before.
    """

    def __init__(self, settings: dict[str, Any], concerned: frozenset[str] = frozenset()) -> None:
        self.settings = settings
        self.concerned = concerned
        self._connections: dict[str, Connection] = {}
        self._unreachable = ""
        self._refused: dict[str, str] = {}

    def refresh(self, *files: str) -> System:
        """The state as it is now, after a problem that concerns these files was found."""
        return System(self.settings, self.concerned.union(files))

    # -- Redis

    def key(self, name: str) -> str:
        """Name of a key of the app's in Redis."""
        return f"{self.settings['redis_key_prefix']}{name}"

    def ask(self, *words: str, user: str = "monitor") -> Any:
        """Redis' reply, in the app's database. Raises CannotRead.

        After a timeout no further command is sent, nor one by a user whose password was refused:
        each failed login counts as an attack.
        """
        if self._unreachable:
            raise CannotRead(self._unreachable, RESTART_REDIS)
        if user in self._refused:
            raise CannotRead(self._refused[user], "deploy again")
        try:
            return self.connection(user).ask(*words)
        except Refused as error:
            raise CannotRead(f"Redis refuses: {error}", "deploy again") from error
        except Unreadable as error:
            self._connections.pop(user, None)  # another command may still be answered
            raise CannotRead(f"Redis answers nonsense: {error}", RESTART_REDIS) from error
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            self._unreachable = f"Redis does not answer: {reason}"
            raise CannotRead(self._unreachable, RESTART_REDIS) from error

    def connection(self, user: str) -> Connection:
        """The one connection of that user."""
        if user not in self._connections:
            try:
                connection = login(user, REDIS_TIMEOUT, self.settings["redis_database"])
            except Refused as error:
                self._refused[user] = f"Redis refuses: {error}"
                raise
            self._connections[user] = connection
        return self._connections[user]

    @cached_property
    def info(self) -> dict[str, str]:
        """Redis' INFO."""
        lines = self.ask("INFO").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def number(self, name: str) -> int:
        """A figure of INFO."""
        return int(self.info[name])

    def config(self, name: str) -> str:
        """A setting of the running Redis."""
        return str(self.ask("CONFIG", "GET", name)[1])

    @cached_property
    def acl_log(self) -> list[dict[str, Any]]:
        """What Redis has refused, the newest first."""
        entries = self.ask("ACL", "LOG", ACL_LOGGED)
        return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in entries]

    # -- workers

    @cached_property
    def worker_answers(self) -> tuple[Answers, int]:
        """Each worker's queues, scheduled tasks and configuration."""
        return ask_workers(self, ("active_queues", "scheduled", "conf"))

    @cached_property
    def worker_log(self) -> list[str]:
        """The worker's log lines that problems refer to, since it was started and within the last
        hour; the newest first."""
        start = max(self.since("celery-worker"), time.time() - RECENT)
        return journal.matching("celery-worker", f"@{start:.0f}", WORKER_MESSAGES)

    def alive_workers(self) -> tuple[int, int]:
        """Number of workers of this machine, and of others, that are connected to Redis."""
        channel = self.key("celery-pi.alive.")
        here = f"{channel}{MACHINE.read_text().strip()}/{self.units['celery-worker']['Id']}/"
        # A pattern for Redis: a prefix has no character that means something in one.
        channels = self.ask("PUBSUB", "CHANNELS", f"{channel}*")
        number = sum(name.startswith(here) for name in channels)
        return number, len(channels) - number

    # -- systemd

    @cached_property
    def units(self) -> dict[str, dict[str, str]]:
        """systemd's properties of each unit of ours, by its name without `.service`.

        Raises CannotRead where no deploy has noted any.
        """
        names = list(manifest.units())
        if not names:  # without a name, systemd would show its own properties
            raise CannotRead(f"{manifest.FILE} names no units", "deploy again")
        listing = output("systemctl", "show", "-p", ",".join(PROPERTIES), *names)
        blocks = listing.strip().split("\n\n")
        properties = [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]
        return {unit["Id"].removesuffix(".service"): unit for unit in properties}

    @cached_property
    def services(self) -> str:
        """systemd's properties of every loaded service, of ours and of others."""
        properties = ",".join(SERVICE_PROPERTIES)
        return output("systemctl", "show", "--all", "-p", properties, "*.service")

    @cached_property
    def failed_units(self) -> list[str]:
        """Units that have failed, of ours and of others."""
        options = ("--failed", "--plain", "--no-legend", "--no-pager")
        listing = output("systemctl", "list-units", *options)
        return [line.split()[0] for line in listing.splitlines() if line]

    def up(self, unit: str) -> bool:
        return self.units[unit]["ActiveState"] == "active"

    def down_for(self, unit: str) -> float:
        """Seconds since the unit ended."""
        return time.monotonic() - int(self.units[unit]["InactiveEnterTimestampMonotonic"]) / 1e6

    def since(self, unit: str) -> float:
        """Unix time at which its main process was started, by the clock as it is now."""
        return _unix_time(self.units[unit]["ExecMainStartTimestampMonotonic"])

    def stopped(self, unit: str) -> float | None:
        """Unix time at which it was stopped or ended, since the machine was started."""
        at = self.units[unit]["ActiveExitTimestampMonotonic"]
        return _unix_time(at) if int(at) else None

    def pids(self, unit: str) -> list[int]:
        """Processes of the unit."""
        group = self.units[unit]["ControlGroup"]
        file = CGROUPS / group.lstrip("/") / "cgroup.procs"
        return [int(pid) for pid in file.read_text().split()] if group and file.exists() else []

    # -- network

    @cached_property
    def filters(self) -> dict[int, str]:
        """The kernel's filter table for each IP version that it has."""
        programs = {4: "iptables-save"}
        if IPV6.exists():
            programs[6] = "ip6tables-save"
        return {version: output(name, "-t", "filter") for version, name in programs.items()}

    @cached_property
    def ssh_ports(self) -> set[int]:
        """Ports on which root's sshd listens, or systemd for it."""
        listening = output("ss", "-Hltnp").splitlines()
        addresses = [
            line.split()[3]
            for line in listening
            if any(map(is_ssh_server, NAMED_SSH.findall(line)))
        ]
        socket_unit = output("systemctl", "show", "-P", "ActiveState", "-P", "Listen", "ssh.socket")
        if "active" in socket_unit.split():
            addresses += re.findall(r"(\S+) \(Stream\)", socket_unit)
        return {int(end.rpartition(":")[2]) for end in addresses} or {SSH}


def _unix_time(monotonic: str) -> float:
    """By the clock as it is now; `monotonic` is in microseconds since the machine was started."""
    return time.time() - (time.monotonic() - int(monotonic) / 1e6)


def is_ssh_server(pid: str) -> bool:
    """Whether root runs an ssh server as that process; false once it has ended.

    By its program too: a set-uid program runs as root under any name, with the caller's sockets.
    """
    try:
        roots = (PROC / pid).stat().st_uid == 0  # the effective user, of the directory itself
        program, first = (PROC / each / "exe" for each in (pid, "1"))
        path = program.readlink()
        # An emulated Pi shows the emulator for each process, the first one too.
        known = path.name.removesuffix(" (deleted)") in SSH_SERVERS or path == first.readlink()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return roots and known
