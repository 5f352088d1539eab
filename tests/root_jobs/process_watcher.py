"""What the processes of other users have of root's, and how much memory any takes.

Looks at /proc on the machine as often as it can. Standard library only.
"""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field

SETTLED = 0.5  # seconds; so long no process is only on its way from root to its user
RUNAWAY = 2**30  # bytes; it is ended, for the host's sake
ROOTS = ("/root", "/etc/celery-pi/secrets")
# The app's own, and Redis' servers: what they need is limited elsewhere.
LARGE_UNITS = ("celery-worker.service", "celery-beat.service", "celery-flower.service")
LARGE_PROGRAMS = ("redis-server",)


@dataclass
class Process:
    """What was seen of one process."""

    pid: int
    began: float
    command: str = ""
    user: int = 0
    memory: int = 0  # bytes, at most
    is_large: bool = False
    is_judged: bool = False
    has: set[str] = field(default_factory=set)


@dataclass
class ProcessWatcher:
    """Looks at every process that begins after it. `terminal`, `extra` and `marker` are root's:
    a path, the path of an open file, and the value of a variable."""

    terminal: str
    extra: str
    marker: str
    known: set[int] = field(default_factory=set)
    seen: dict[tuple[int, str], Process] = field(default_factory=dict)
    looks: int = 0

    def __post_init__(self) -> None:
        self.known = {os.getpid(), *_pids()}

    def look(self) -> None:
        self.looks += 1
        for pid in _pids():
            if pid not in self.known:
                with suppress(OSError, ValueError, IndexError):
                    self._look_at(pid)

    def _look_at(self, pid: int) -> None:
        # By its directory, so that the number is nobody else's meanwhile.
        at = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
        try:
            fields = _read(at, "stat").rpartition(")")[2].split()
            process = self.seen.setdefault((pid, fields[19]), Process(pid, time.monotonic()))
            status = dict(line.split(":\t", 1) for line in _read(at, "status").splitlines())
            process.user = int(status["Uid"].split()[0])
            self._weigh(process, status, at)
            if process.user and self._has_begun(process, at):
                self._judge(process, at)
        finally:
            os.close(at)

    def _weigh(self, process: Process, status: dict[str, str], at: int) -> None:
        memory = int(status.get("VmHWM", "0 kB").split()[0]) * 1024
        if memory > process.memory or not process.command:
            words = _read(at, "cmdline").replace("\0", " ").strip()
            process.command = words or f"[{status['Name']}]"
            unit = _read(at, "cgroup").strip().rpartition("/")[2]
            is_of_app = unit in LARGE_UNITS or _is_app(unit)
            process.is_large = is_of_app or status["Name"].strip() in LARGE_PROGRAMS
        process.memory = max(process.memory, memory)
        if memory > RUNAWAY and not process.is_large:
            os.kill(process.pid, 9)

    def _has_begun(self, process: Process, at: int) -> bool:
        """Whether it is its user's, who may look into it; between setuid and exec he may not, nor
        is systemd's own process anybody's that is about to become a service."""
        if os.readlink("exe", dir_fd=at).startswith("/usr/lib/systemd/systemd"):
            return False
        is_his = os.stat("environ", dir_fd=at).st_uid == process.user
        return is_his or time.monotonic() - process.began > SETTLED

    def _judge(self, process: Process, at: int) -> None:
        # Read again: what was read before it was its user's may be of the time before.
        fields = _read(at, "stat").rpartition(")")[2].split()
        status = dict(line.split(":\t", 1) for line in _read(at, "status").splitlines())
        process.is_judged = True
        session, terminal = int(fields[3]), int(fields[4])
        if terminal:
            process.has.add("a terminal")
        if session != process.pid and _is_roots_session(session):
            process.has.add("a session of root's")
        words = _read(at, "environ").split("\0")
        if any(self.marker in word for word in words):
            process.has.add("root's environment")
        process.has |= {f"root's {word}" for word in words if word in OF_ROOT}
        groups = {int(status["Gid"].split()[1]), *map(int, status["Groups"].split())}
        for name in os.listdir(f"/proc/self/fd/{at}/fd"):  # noqa: PTH208
            with suppress(FileNotFoundError):
                process.has |= self._descriptor(f"fd/{name}", process.user, groups, at)

    def _descriptor(self, name: str, user: int, groups: set[int], at: int) -> set[str]:
        path = os.readlink(name, dir_fd=at)
        if path.startswith(("/dev/pts/", "/dev/tty", "/dev/console")) or path == self.terminal:
            return {f"descriptor {name[3:]} on a terminal"}
        if path == self.extra or path.startswith(ROOTS):
            return {f"descriptor {name[3:]} on {path}"}
        if name in ("fd/0", "fd/1", "fd/2"):
            return set()  # what it is given to read, and where it is to write
        shown = os.stat(name, dir_fd=at)
        if path.startswith("/") and stat.S_ISREG(shown.st_mode) and shown.st_uid == 0 != user:
            wanted = 4 if shown.st_gid not in groups else 0o44
            if not shown.st_mode & wanted:
                return {f"descriptor {name[3:]} on {path}, which is root's alone"}
        return set()


OF_ROOT = ("HOME=/root", "LOGNAME=root")


def _is_app(unit: str) -> bool:
    """Whether it is a unit of its own in which `check` and `prove` load the app."""
    return re.fullmatch(r"celery-pi-\d+-\d+\.service", unit) is not None


def _is_roots_session(leader: int) -> bool:
    """Whether root began it at a terminal, or from another machine; that of one of root's services
    has nothing to be taken, such as of nginx and its workers."""
    try:
        at = os.open(f"/proc/{leader}", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fields = _read(at, "stat").rpartition(")")[2].split()
        parent, terminal = int(fields[1]), int(fields[4])
        return os.fstat(at).st_uid == 0 and (terminal != 0 or parent == 0)
    except (OSError, IndexError):
        return False
    finally:
        os.close(at)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _read(at: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY, dir_fd=at)
    try:
        parts = []
        while part := os.read(fd, 2**16):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode(errors="surrogateescape")
