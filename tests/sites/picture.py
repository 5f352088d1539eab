"""A picture of a machine, byte for byte, and what differs between two of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.virtual_pi import VirtualPi

Picture = Mapping[str, Mapping[str, str]]

_LOOK = Path(__file__).with_name("onlooking.py")
SECONDS = 120

NOT_LOOKED_AT = {
    "/proc": "the kernel's",
    "/sys": "the kernel's",
    "/dev": "the kernel's",
    "/run": "gone at each start",
    "/tmp": "gone at each start",  # noqa: S108
    "/var/tmp": "nobody keeps anything there",  # noqa: S108
    "/var/log": "grows by itself",
    "/var/cache": "can be made again",
    "/var/lib/redis": "the queue, which the client counts",
    "/var/lib/mysql": "the database, whose rows the client counts",
    "/.dockerenv": "Docker's",
    "/etc/hostname": "Docker's",
    "/etc/hosts": "Docker's",
    "/etc/resolv.conf": "Docker's",
}


@dataclass(frozen=True)
class Allowed:
    """What may differ: a pattern of `section name` (`file /etc/shadow`), and why it may."""

    pattern: str
    reason: str

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError(f"{self.pattern} may not differ without a reason")


_SITE = "/var/www/html/Observations_Nids"
BY_ITSELF = (
    Allowed(rf"file {_SITE}/logs/celery-(worker|beat)\.log", "the owner's services write it"),
    Allowed(rf"file {_SITE}/journaux/observations_nids\.log", "the site and its worker write it"),
    Allowed(rf"file {_SITE}/media/runs\.txt", "the tasks tell there that they have run"),
    Allowed(rf"file {_SITE}/celerybeat-schedule.*", "Beat saves it when it likes"),
    Allowed(rf"file {_SITE}/(observations|observations_nids)(/.*)?/__pycache__(/.*)?", "Python's"),
    Allowed(r"file /var/lib/fail2ban/fail2ban\.sqlite3.*", "fail2ban saves it when it likes"),
    Allowed(r"file /var/backups(/(alternatives|dpkg|apt)\..*)?", "dpkg's own, at midnight"),
    Allowed(r"file /var/lib/logrotate(/status)?", "logrotate's own account of when it ran"),
    Allowed(r"file /var/lib/systemd/(timers|random-seed|timesync)(/.*)?", "systemd's own account"),
    Allowed(r"file /var/lib/systemd/(catalog|deb-systemd-helper-enabled)/?", "systemd's own"),
    Allowed(r"file /var/spool/exim4/.*", "mail that cron sends to the owner"),
    Allowed(r"(file|unit) .*\b(session|user)-c?[0-9]+\.(scope|slice).*", "whoever is logged in"),
    Allowed(
        r"unit (systemd-tmpfiles-clean|apt-daily|apt-daily-upgrade|logrotate|fstrim|e2scrub_all|"
        r"dpkg-db-backup|man-db|phpsessionclean|apt-listchanges|exim4-base)\.(service|timer) .*",
        "a timer's: it runs when its time has come",
    ),
)
"""What changes on a machine that nobody touches."""

AFTER_A_RESTART = (
    Allowed(r"process .*", "the services have been started again"),
    Allowed(
        r"unit (ldconfig|systemd-(journal-catalog-update|sysusers|update-done))\.service \(runs\)",
        "runs at the first start after an update alone",
    ),
)


def take(pi: VirtualPi) -> Picture:
    """The machine as it is now."""
    told = pi.run(
        "python3", "-I", "-", *NOT_LOOKED_AT, input=_LOOK.read_bytes(), timeout=SECONDS
    ).stdout
    seen: dict[str, dict[str, str]] = json.loads(told)
    # A picture of nothing would equal every other.
    for section in ("file", "package", "unit", "process", "listener"):
        if not seen[section]:
            raise AssertionError(f"the machine shows no {section}")
    return seen


def compare(before: Picture, after: Picture, allowed: Iterable[Allowed] = BY_ITSELF) -> list[str]:
    """A line for each difference but the allowed ones."""
    patterns = [re.compile(each.pattern) for each in allowed]
    lines = []
    for section in sorted({*before, *after}):
        old, new = before.get(section, {}), after.get(section, {})
        for name in sorted({*old, *new}):
            if old.get(name) == new.get(name):
                continue
            if any(pattern.fullmatch(f"{section} {name}") for pattern in patterns):
                continue
            lines.append(
                f"{section} {name}: {old.get(name, 'absent')} => {new.get(name, 'absent')}"
            )
    return lines
