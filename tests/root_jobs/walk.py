"""A deployed machine with traps on it, and what came of each of root's jobs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.helpers.harness import APP, UNITS, prove, pyinfra
from tests.root_jobs.jobs import ARCHIVE, Job
from tests.virtual_pi import VirtualPi

HERE = Path(__file__).parent
SOURCE = "/root/celery-pi-walk"
STOP = "/run/celery-pi-walk.stop"
CERTIFICATE = "/etc/celery-pi-walk.pem"
DATABASE, LOG = f"{APP}/data/db.sqlite3", f"{APP}/logs/x.log"
# What is off by default and has jobs of root's.
SETTINGS = {
    **{"redis_tls": True, "nginx_certificate": CERTIFICATE, "nginx_certificate_key": CERTIFICATE},
    "backup_databases": DATABASE.removeprefix(f"{APP}/"),
}
DEPLOY = "deploy"
MIB = 2**20
PREPARE = f"""
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 900 -subj /CN=pi \
  -keyout {CERTIFICATE}.key -out {CERTIFICATE} 2>/dev/null
cat {CERTIFICATE}.key >>{CERTIFICATE}; chmod 600 {CERTIFICATE}; rm {CERTIFICATE}.key
python3 -c 'import sqlite3
d = sqlite3.connect("{DATABASE}"); d.execute("create table t(x)"); d.commit()'
head -c 10000 /dev/zero | tr '\\0' l >{LOG}
chown www-data: {DATABASE} {LOG}
"""
CLEAN = f"""
rm -rf {SOURCE}* {CERTIFICATE} {DATABASE}* {LOG}* {STOP} {APP}/logs/*.log.1 {ARCHIVE}
rm -rf /root/celery-pi-canary /var/lib/celery-pi/canary /var/lib/logrotate/celery-pi-walk
rm -rf /var/backups/celery-pi/*.tar.gz /var/lib/celery-pi/before-restore-*
"""
OF_REDIS = ("redis-memory", "redis-server")


@dataclass(frozen=True)
class Result:
    """How a job ended, what it said, and what was seen meanwhile."""

    name: str
    status: int
    seconds: float
    hung: bool
    said: str
    looks: int
    touched: list[str]
    processes: list[dict[str, Any]]

    @property
    def roots(self) -> list[str]:
        """Processes of other users that had something of root's."""
        return [
            f"{self.name}: {each['user']} {each['command']}: {', '.join(each['has'])}"
            for each in self.processes
            if each["has"]
        ]

    def above(self, limit: int) -> list[str]:
        """Processes that took more than so many bytes, but for the app's and Redis' own."""
        return [
            f"{self.name}: {each['memory'] // MIB} MiB: {each['user']} {each['command']}"
            for each in self.processes
            if each["memory"] > limit and not each["large"]
        ]

    @property
    def users(self) -> set[str]:
        """Who had a process of the job that was looked into."""
        return {each["user"] for each in self.processes if each["judged"]}


@dataclass
class Walk:
    """The machine, and the text that is in each file of root's."""

    pi: VirtualPi
    marker: str

    def module(self, name: str, *words: str, given: object = None, timeout: float = 300) -> str:
        """What one of our programs prints on the machine."""
        command = ("env", "-C", SOURCE, "python3", "-B", "-m", f"tests.root_jobs.{name}", *words)
        text = None if given is None else json.dumps(given).encode()
        return self.pi.run(*command, input=text, timeout=timeout).stdout

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        """Run the jobs one after the other."""
        limit = sum(job.limit for job in jobs) + 60
        told = [job.told() for job in jobs]
        lines = self.module("runner", self.marker, given=told, timeout=limit).splitlines()
        return [Result(**json.loads(line)) for line in lines]

    def deploy(self, what: str = "deploy.py", limit: float = 150) -> Result:
        """A deploy from here, which is looked at there."""
        wait = Job(f"sh -c 'until [ -e {STOP} ]; do sleep 0.05; done'", limit)
        data = [word for name, value in SETTINGS.items() for word in ("--data", f"{name}={value}")]
        self.pi.run("rm", "-f", STOP)
        with ThreadPoolExecutor() as threads:
            looked = threads.submit(self.run, [wait])
            try:
                done = pyinfra(self.pi, "-y", *data, "inventory.py", what)
            finally:
                self.pi.run("touch", STOP)
            seen = looked.result()[0]
        return replace(seen, name=DEPLOY, status=done.status, said=done.output)

    def directories(self) -> list[dict[str, str]]:
        """Each that another user can write, with the user."""
        found: list[dict[str, str]] = json.loads(self.module("traps", "find"))
        return found

    @contextmanager
    def trapped(
        self, kind: str, places: Sequence[Mapping[str, Any]], beat: bool = False
    ) -> Iterator[list[str]]:
        """Paths of the traps of that kind in those places; afterwards all is well again. Without
        Beat, a task of whose may hang on a trap as long as a task may: the app's own affair."""
        if not beat:
            self.pi.run("systemctl", "stop", "celery-beat")
        if any(place["user"] == "redis" for place in places):
            self.pi.run("systemctl", "stop", *OF_REDIS)
        paths = json.loads(self.module("traps", "put", kind, given=list(places)))
        try:
            yield paths
        finally:
            self.pi.run("systemctl", "stop", *OF_REDIS, *UNITS)
            self.module("traps", "mend")
            self.pi.run("systemctl", "reset-failed")
            self.pi.run("systemctl", "start", "redis-server")
            self.pi.run("systemctl", "start", *OF_REDIS, *UNITS)
            assert "SUCCESS" in prove(self.pi)

    def told_elsewhere(self, since: str) -> list[str]:
        """Where the content of a file of root's has come to: the journal, and others' files."""
        look = (
            'journalctl --since "@$2" -o export | grep -aqF "$1" && echo the journal; '
            "find / -xdev -path /proc -prune -o -path /sys -prune -o "
            '-type f ! -user root -newermt "@$2" -size -20M -exec grep -alF "$1" {} +; true'
        )
        return self.pi.run("sh", "-c", look, "sh", self.marker, since).stdout.splitlines()

    def journal(self, since: str, unit: str) -> str:
        """What a unit, and systemd about it, has said."""
        told = ("journalctl", "--since", f"@{since}", "-o", "cat", "-u", unit)
        return self.pi.run(*told).stdout

    def now(self) -> str:
        return self.pi.run("date", "+%s.%N").stdout.strip()


@contextmanager
def prepared(pi: VirtualPi) -> Iterator[Walk]:
    """The machine with our programs and files of root's, a database, a log and a backup."""
    walk = Walk(pi, secrets.token_hex(16))
    pi.run("sh", "-c", PREPARE)
    pi.put(HERE, f"{SOURCE}/tests/root_jobs")
    make = f"from tests.root_jobs import canaries; canaries.make({walk.marker!r})"
    pi.run("env", "-C", SOURCE, "python3", "-B", "-c", make)
    try:
        done = walk.deploy()
        assert done.status == 0, done.said
        pi.run("celery-pi", "backup")
        pi.run("sh", "-c", f"cp $(ls /var/backups/celery-pi/*.tar.gz | tail -n 1) {ARCHIVE}")
        yield walk
    finally:
        pi.run("sh", "-c", CLEAN)


def is_of_rest(place: dict[str, str]) -> bool:
    """Whether it is Redis' or has the app's code: traps there would hide those in the others."""
    is_code = place["directory"].startswith(f"{APP}/") and place["user"] == "pi"
    return is_code or place["user"] == "redis"
