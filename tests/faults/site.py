"""The configurations that are compared, both on one machine: ours, and the guide's beside it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.harness import in_app, wait_for
from tests.virtual_pi import VirtualPi

UNITS = "/etc/systemd/system"
# At one moment: a task that is given back in between would be in neither.
_NOTED = "return {redis.call('lrange', KEYS[1], 0, -1), redis.call('hvals', KEYS[2])}"
_GUIDE = Path(__file__).parent / "guide"


@dataclass(frozen=True)
class Site:
    """A worker, a second one that only some faults need, their broker, and how to look into it."""

    pi: VirtualPi
    worker: str
    second: str
    redis: str
    cli: tuple[str, ...]
    broker: str = ""

    def ctl(self, *arguments: str) -> None:
        self.pi.run("systemctl", *arguments)

    def in_app(self, code: str) -> str:
        """Run the app's code with this broker; our own stands in the app's `.env`."""
        named = f"import os; os.environ |= dict.fromkeys({_URLS}, {self.broker!r})\n"
        return in_app(self.pi, (named if self.broker else "") + code)

    def ask(self, *command: str) -> str:
        """Redis' answer; empty while there is none."""
        return self.pi.run(*self.cli, *command, check=False).stdout.strip()

    def waiting(self) -> set[str] | None:
        """Ids of the tasks in the queue or with a worker; None while Redis does not answer."""
        if self.ask("ping") != "PONG":
            return None
        noted = self.ask("eval", _NOTED, "2", "celery", "unacked")
        found = [json.loads(line) for line in noted.splitlines() if line]
        messages = [entry[0] if isinstance(entry, list) else entry for entry in found]
        return {message["headers"]["id"] for message in messages}

    def ready(self) -> bool:
        return self.ask("ping") == "PONG" and bool(self.ask("smembers", "_kombu.binding.celery"))

    def start_second(self) -> None:
        """A second worker, which differs from the first in its name alone."""
        unit = self.pi.run("cat", f"{UNITS}/{self.worker}.service").stdout
        unit = re.sub(r"--hostname=\S+", "", unit)
        unit = unit.replace(" worker ", " worker --hostname=celery-b@%H ", 1)
        path = f"{UNITS}/{self.second}.service"
        self.pi.run("sh", "-c", f"cat >{path}", input=unit.encode())
        self.ctl("daemon-reload")
        self.ctl("start", self.second)

    def renew(self) -> None:
        """One worker that has just started, and an empty broker."""
        for unit in (self.second, self.worker):
            self.pi.run("systemctl", "kill", "--signal=KILL", unit, check=False)
            self.pi.run("systemctl", "stop", unit, check=False)
            self.pi.run("systemctl", "reset-failed", unit, check=False)
        undone = (f"{UNITS}/{self.second}.service", "/run/systemd/system/*.service.d/dead.conf")
        self.pi.run("sh", "-c", f"rm -f {' '.join(undone)}")
        self.ctl("daemon-reload")
        self.ctl("start", self.redis)
        self.ask("del", "celery", "unacked", "unacked_index", "_kombu.binding.celery")
        self.ctl("start", self.worker)
        wait_for("the worker consumes", self.ready)


_URLS = ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")


def ours(pi: VirtualPi) -> Site:
    """What has been deployed."""
    cli = ("/usr/local/lib/celery-pi/redis-cli", "admin")
    return Site(pi, "celery-worker", "celery-b", "redis-server", cli)


def guides(pi: VirtualPi) -> Site:
    """The guide's units, which this installs, with a Redis of their own."""
    pi.put(_GUIDE, UNITS)
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "enable", "--now", "guide-redis", "guide-worker")
    port = ("redis-cli", "-p", "7777")
    return Site(pi, "guide-worker", "guide-b", "guide-redis", port, "redis://127.0.0.1:7777/0")


def remove_guides(pi: VirtualPi) -> None:
    pi.run("systemctl", "disable", "--now", "guide-worker", "guide-redis")
    pi.run("sh", "-c", f"rm -rf {UNITS}/guide-*.service /var/lib/guide-redis")
    pi.run("systemctl", "daemon-reload")
