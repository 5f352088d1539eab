"""The hardware watchdog, as systemd keeps it awake."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.plan import will
from celery_pi.shell import assign

SHOW = "systemctl show -p RuntimeWatchdogUSec --value"

# A reload is enough, and unlike daemon-reexec leaves systemd the process that it is.
TAKE = rf"""
systemctl daemon-reload
now=$({SHOW})
[ "$now" = "$timeout" ] || {{ echo "systemd has its watchdog at ${{now:-nothing}}" >&2; exit 1; }}
"""


class RuntimeWatchdog(FactBase[str]):
    """Time that systemd gives itself, as it prints it: `1min`, or `0` for none."""

    @staticmethod
    def default() -> str:
        return ""

    def command(self) -> StringCommand:
        return StringCommand(SHOW)

    def process(self, output: list[str]) -> str:
        return output[0]


@operation()
def runtime_watchdog(timeout: str) -> Generator[StringCommand]:
    """systemd goes by that time, which is in its configuration by now; written as it prints it."""
    if host.get_fact(RuntimeWatchdog) == timeout:
        host.noop(f"the watchdog is at {timeout}")
        return
    will(host, "change", "the hardware's watchdog", f"resets a Pi that hangs for {timeout}")
    yield StringCommand(assign(timeout=timeout), TAKE)
