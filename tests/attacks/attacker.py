"""What attackers have in common: where they stand, how they wait for their victim, what they got.

Root is in a test only to set up, to do what an owner or a timer does, and to look at the result.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.harness import APP, Outcome, pyinfra, run, wait_for
from tests.virtual_pi import VirtualPi

OLD = "06a3844"
ENV = f"{APP}/.env"
MEDIA = f"{APP}/media"
DATABASE = f"{APP}/db.sqlite3"
LIBRARY = "/usr/local/lib/celery-pi"
BACKUPS = "/var/backups/celery-pi"
SECRET = "only-root-may-read-this-0123456789"  # noqa: S105  planted, to be looked for
ASIDE = "/root/celery-pi-attack"

# What a victim may do to a name in somebody else's directory, slowed down so that a race is none.
BY_NAME = "chown,lchown,fchownat,fchown,chmod,fchmodat,fchmod,link,linkat,rename,renameat,renameat2"

# Every attacker's script begins with these.
PRELUDE = """
import ctypes, glob, os, signal, sys, time
ME = os.getuid()
SWAPS = [0]
END = time.monotonic() + 180

def told():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"swaps {SWAPS[0]}"))
    print(f"ready {os.getpid()}", flush=True)

def processes():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    yield int(name), file.read().replace(b"\\0", b" ").decode(errors="replace")
            except OSError:
                pass

def seen(*words):
    return any(all(word in line for word in words) for _, line in processes()
               if "def told" not in line)  # this program itself

def link(target, path):
    # In one step, whatever is there.
    os.symlink(target, f"{path}.{os.getpid()}")
    os.replace(f"{path}.{os.getpid()}", path)
"""


@dataclass
class Victim:
    """A deployed machine, the source that it was deployed from, and what was tried there."""

    pi: VirtualPi
    source: Path
    is_old: bool

    def judge(self, got: str) -> None:
        """The attack must have got something from the old one, and nothing from the new."""
        if self.is_old:
            assert got, "it fails even where it is known to succeed, and so proves nothing"
        else:
            assert not got, got

    def root(self, *argv: str, check: bool = True, timeout: float = 150) -> str:
        """What root's command prints, both streams; an owner or a timer would run it."""
        done = self.pi.run("timeout", str(timeout), *argv, check=check, timeout=timeout + 30)
        return done.stdout + done.stderr

    def sh(self, script: str, *arguments: str, user: str = "root", check: bool = True) -> str:
        """What a script of the shell prints on standard output."""
        command = ("timeout", "60", "sh", "-c", script, "sh", *arguments)
        return self.pi.run(*command, user=user, check=check).stdout

    def python(self, code: str, *arguments: str, user: str, timeout: int = 60) -> str:
        """What an attacker's Python prints, all of which may fail."""
        command = ("timeout", str(timeout), "python3", "-c", PRELUDE + code, *arguments)
        return self.pi.run(*command, user=user, check=False).stdout

    def in_app(self, code: str, *arguments: str) -> str:
        """The same in the app's environment: `redis` is its client, as Celery has it."""
        begin = (
            "import json, sys\n"
            "from observations_nids.celery import app\n"
            "redis = app.connection_for_write().default_channel.client\n"
        )
        python = f"{APP}/venv/bin/python"
        command = ("env", "-C", APP, "timeout", "60", python, "-c", begin + code, *arguments)
        return self.pi.run(*command, user=self.app_user).stdout.strip()

    @property
    def app_user(self) -> str:
        settings = json.loads(self.pi.run("cat", "/etc/celery-pi/settings.json").stdout)
        return str(settings["app_user"])

    def deploy(self, what: str = "deploy.py", **settings: object) -> Outcome:
        """A deploy of all or of one component, from the machine's own source."""
        data = [word for key, value in settings.items() for word in ("--data", f"{key}={value}")]
        return pyinfra(self.pi, "-y", *data, "inventory.py", what, cwd=self.source)

    def stat(self, path: str) -> str:
        """Owner, mode, size and content of what is there, as far as they can be seen; or nothing.

        A link is not followed.
        """
        script = 'stat -c "%U:%G %a %s" "$1" 2>/dev/null && sha256sum "$1" 2>/dev/null; true'
        return self.sh(script, path).strip()

    @contextmanager
    def attacked(
        self, user: str, code: str, *arguments: str, patience: float = 0
    ) -> Iterator[list[str]]:
        """Meanwhile that user runs the code, which says `told()` once it lies in wait. Afterwards,
        within so many seconds, he ends or is ended, and the list holds what he has printed."""
        command = ["docker", "exec", "--user", user, self.pi.name, "timeout", "200"]
        command += ["python3", "-u", "-c", PRELUDE + code, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout
        first = process.stdout.readline().decode()
        assert first.startswith("ready "), first + process.stdout.read().decode()
        said: list[str] = []
        try:
            yield said
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            self.pi.run("kill", first.split()[1], check=False)
            said += process.communicate(timeout=60)[0].decode(errors="replace").splitlines()

    def delayed(self, *argv: str, seconds: float = 0.25, calls: str = BY_NAME) -> tuple[str, ...]:
        """The command, stopped for so long before each of those system calls."""
        inject = f"inject={calls}:delay_enter={int(seconds * 1e6)}"
        strace = ("strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={calls}")
        return (*strace, "-e", inject, *argv)

    @contextmanager
    def slowed(self, program: str, where: str) -> Iterator[None]:
        """Meanwhile the program waits before it begins, when its arguments name that."""
        path = self.sh('readlink -f "$(command -v "$1")"', program).strip()
        wrapper = (
            f'#!/bin/sh\ncase "$*" in *{shlex.quote(where)}*) sleep 0.7 ;; esac\n'
            f'exec {path}.attacked "$@"\n'
        )
        put = 'mv "$1" "$1.attacked" && printf %s "$2" >"$1" && /usr/bin/env chmod 755 "$1"'
        self.sh(put, path, wrapper)
        try:
            yield
        finally:
            self.sh('mv -f "$1.attacked" "$1"', path)

    def needs_ptrace(self) -> None:
        """Skip what the old machine was open to only by its kernel."""
        asked = self.pi.run("cat", "/proc/sys/kernel/yama/ptrace_scope", check=False)
        if self.is_old and asked.stdout.strip() not in ("", "0"):
            pytest.skip("Yama, in this host's kernel, refuses it on its own")

    @contextmanager
    def beat_stopped(self) -> Iterator[None]:
        """Beat writes nothing meanwhile: he who may write its files may stop it, too."""
        signal = 'kill "-$1" "$2"'
        pid = self.pid("celery-beat")
        self.sh(signal, "STOP", pid, user=self.app_user)
        try:
            yield
        finally:
            self.sh(signal, "CONT", pid, user=self.app_user)

    @contextmanager
    def kept(self, *paths: str) -> Iterator[None]:
        """Afterwards what lies there is what lay there before, or nothing."""
        self.sh(f'tar -cpPf {ASIDE}.tar --ignore-failed-read -- "$@" 2>/dev/null; true', *paths)
        try:
            yield
        finally:
            self.sh(f'rm -rf -- "$@"; tar -xpPf {ASIDE}.tar; rm {ASIDE}.tar', *paths)

    @contextmanager
    def planted(self, path: str, content: str = SECRET, mode: str = "600") -> Iterator[str]:
        """A file of root's, gone afterwards; yields its state."""
        put = 'rm -rf "$1"; printf "%s\\n" "$2" >"$1"; chown root: "$1"; chmod "$3" "$1"'
        self.sh(put, path, content, mode)
        try:
            yield self.stat(path)
        finally:
            self.sh('rm -rf "$1"', path)

    @contextmanager
    def theirs(self) -> Iterator[None]:
        """The layout of many guides: the app's directory itself belongs to the app's user."""
        before = self.sh('stat -c %U:%G "$1"', APP).strip()
        self.sh('chown "$1" "$2"', f"{self.app_user}:{before.split(':')[1]}", APP)
        try:
            yield
        finally:
            self.sh('chown "$1" "$2" && chmod 2755 "$2"', before, APP)

    @contextmanager
    def database(self) -> Iterator[None]:
        """The app has a database, which a backup holds; what backups were made is gone after."""
        make = "import sqlite3; d=sqlite3.connect(%r); d.execute('create table t(x)'); d.commit()"
        self.sh('python3 -c "$1" && chown "$2:" "$3"', make % DATABASE, self.app_user, DATABASE)
        try:
            yield
        finally:
            self.sh(f"rm -rf {DATABASE}* {BACKUPS}/*.tar.gz")

    def wait_for_service(self, unit: str, other_than: str = "") -> str:
        """PID of the unit's process, once it is up, and is another one."""

        def up() -> str:
            active = self.pi.run("systemctl", "is-active", unit, check=False).stdout == "active\n"
            pid = self.pid(unit)
            return pid if active and pid not in ("0", other_than) else ""

        return str(wait_for(f"{unit} is up", up))

    def pid(self, unit: str) -> str:
        return self.pi.run("systemctl", "show", "-P", "MainPID", unit).stdout.strip()


def swaps(said: list[str]) -> int:
    """How often an attacker has swapped what he swaps."""
    return sum(int(line.split()[1]) for line in said if line.startswith("swaps "))


def newest_backup(victim: Victim) -> str:
    """Path of a backup that is made now, as its timer does."""
    victim.root("celery-pi", "backup")
    return victim.sh(f"ls {BACKUPS}/*.tar.gz | tail -n 1").strip()


def whole_record(victim: Victim, **changes: object) -> str:
    """What a Pi could say of a whole deploy from the machine's own source, with these changes."""
    oldest = victim.sh("cat $(ls /var/lib/celery-pi/deploys/*.json | head -n 1)")
    record = json.loads(oldest) | {"result": "completed", "what": ["deploy.py"]}
    return json.dumps(record | changes)


def roll_back(victim: Victim, record: str) -> Outcome:
    """`make rollback` to a deploy that the Pi records so."""
    path = "/var/lib/celery-pi/deploys/000777.json"
    host = f"@docker/{victim.pi.name}"
    with victim.kept(path):
        victim.sh('printf "%s\\n" "$2" >"$1"', path, record)
        module = "celery_pi.rollback" if victim.is_old else "celery_pi.deploys.rollback"
        rollback = (sys.executable, "-m", module, "--to", "777")
        return run(*rollback, cwd=victim.source, timeout=300, CELERY_PI_HOST=host)


# As root gives away what he is about to put into that directory, its path leads to a file of his.
_SWAP_NEW = """
directory, target = sys.argv[1:]
new = directory + "/.celery-pi.new"
told()
while time.monotonic() < END:
    for pid, line in processes():
        names = [word for word in line.split() if word.startswith(new + "/")]
        if names and "chown" in line:
            os.rename(new, directory + "/attack")
            os.mkdir(new)
            os.symlink(target, names[0])
            print("swapped", names[0])
            sys.exit()
"""


@contextmanager
def swapping_new_files(victim: Victim, user: str, directory: str, target: str) -> Iterator[None]:
    """Meanwhile that user, who may write the directory, lies in wait for files of root's there."""
    with (
        victim.slowed("chown", f"{directory}/.celery-pi.new"),
        victim.attacked(user, _SWAP_NEW, directory, target),
    ):
        yield
    victim.sh('rm -rf "$1/attack" "$1/.celery-pi.new"', directory)
