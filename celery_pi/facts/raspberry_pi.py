"""What a Raspberry Pi is, beyond a machine with Debian."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand

from celery_pi.shell import assign, script

CMDLINE = "/boot/firmware/cmdline.txt"
COUNTED = "cgroup_enable=memory"
SWAP = "/etc/systemd/zram-generator.conf.d/celery-pi.conf"
WATCHDOG = "/etc/systemd/system.conf.d/celery-pi.conf"

SHOW = script("raspberry_pi")

LONG_TIMEOUTS = (6, 8)  # the first kernel whose driver takes more than the hardware's 15 s


@dataclass(frozen=True)
class Pi:
    """Kernel, time that systemd's watchdog is set to, and which of SHOW's words are true."""

    kernel: str
    watched: str
    true: frozenset[str]

    def has(self, word: str) -> bool:
        return word in self.true

    @property
    def timeout(self) -> str:
        """Longest that its watchdog can wait for systemd, up to a minute; 15 s were seen to be
        short for a `daemon-reload` on a slow card. What every kernel takes, where the name of this
        one begins with no version."""
        version = re.match(r"(\d+)\.(\d+)", self.kernel)
        is_long = version is not None and (int(version[1]), int(version[2])) >= LONG_TIMEOUTS
        return "1min" if is_long else "15s"

    @property
    def is_watched_by_others(self) -> bool:
        """Raspberry Pi OS of 2025 sets it to a minute."""
        return self.watched not in ("", "0", "infinity") and not self.has("our-watchdog")

    @property
    def has_zram_of_others(self) -> bool:
        return self.has("rpi-swap") or (self.has("zram") and not self.has("our-swap"))


class RaspberryPi(FactBase[Pi | None]):
    """What there is to know of a Raspberry Pi; None of any other machine. One command."""

    @staticmethod
    def default() -> None:
        return None

    def command(self) -> StringCommand:
        return StringCommand(assign(counted=COUNTED, swap=SWAP, watchdog=WATCHDOG), SHOW)

    def process(self, output: list[str]) -> Pi:
        values = dict(line.partition(" ")[::2] for line in output)
        return Pi(values["kernel"], values["watched"], frozenset(values))
