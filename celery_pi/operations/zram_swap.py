"""Swap in compressed memory, in the place of swap on the SD card."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.plan import will

# dphys-swapfile is how Raspberry Pi OS swapped until 2025.
SHOW = r"""
awk 'NR > 1 { print "swap " $1 }' /proc/swaps
systemctl -q is-enabled dphys-swapfile.service 2>/dev/null && echo dphys
true  # nothing to say is an answer
"""

START = r"""
set -e
systemctl daemon-reload
systemctl start dev-zram0.swap
grep -q '^/dev/zram0 ' /proc/swaps || { echo "there is no swap on /dev/zram0" >&2; exit 1; }
"""


class Swaps(FactBase[list[str]]):
    """Paths of what is swapped to, and `dphys` when dphys-swapfile is to make one at boot."""

    default = list

    def command(self) -> StringCommand:
        return StringCommand(SHOW)

    def process(self, output: list[str]) -> list[str]:
        return [line.removeprefix("swap ") for line in output]


def on_disk(swaps: list[str]) -> list[str]:
    """What of it wears a disk, and would still be there without dphys-swapfile."""
    paths = [path for path in swaps if path != "dphys" and not path.startswith("/dev/zram")]
    return [path for path in paths if not ("dphys" in swaps and path == "/var/swap")]


@operation()
def zram_swap() -> Generator[StringCommand]:
    """There is swap on /dev/zram0, as zram-generator is configured to make it; then, and not
    before, dphys-swapfile is stopped and disabled. Its file stays."""
    swaps = host.get_fact(Swaps)
    if "dphys" in swaps:
        will(host, "stop", "dphys-swapfile.service", "its swap on the card")
    if "/dev/zram0" not in swaps:
        will(host, "change", "swap", "into compressed memory")
    if "/dev/zram0" not in swaps:
        yield StringCommand(START)
    if "dphys" in swaps:
        yield StringCommand("systemctl disable --quiet --now dphys-swapfile.service")
    if "/dev/zram0" in swaps and "dphys" not in swaps:
        host.noop("swap is in compressed memory")
