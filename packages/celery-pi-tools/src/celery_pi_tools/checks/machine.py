"""Managed by celery-pi. The machine: disk, memory, load, heat, power."""

from __future__ import annotations

import os
from pathlib import Path

from celery_pi_tools.checks.registry import Finding, check, ok, warn, wrong
from celery_pi_tools.commands import output
from celery_pi_tools.system import System
from celery_pi_tools.table import percent, size

LOW = 10  # percent
HOT, TOO_HOT = 75, 82  # degrees Celsius; a Pi slows down from 80 on
THERMAL = Path("/sys/class/thermal")
MEMINFO = Path("/proc/meminfo")
REBOOT = Path("/run/reboot-required")
POWER = "a supply of 5 V and enough ampere, on a short cable; see vcgencmd get_throttled"

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
THROTTLED = ("under-voltage", "frequency capped", "throttled", "too hot")


@check("Machine", "Memory", "status")
def memory(_: System) -> Finding:
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    fields = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    free, whole = fields["MemAvailable"], fields["MemTotal"]
    swapped = fields["SwapTotal"] - fields["SwapFree"]
    evidence = f"{size(free)} of {size(whole)} available"
    evidence += f", {size(swapped)} swapped" if swapped else ""
    values = {"available": free, "total": whole, "swapped": swapped}
    if percent(free, whole) < LOW:
        remedy = "ps axk -rss o rss,args | head; celery_concurrency, redis_maxmemory"
        return warn(evidence, remedy, **values)
    return ok(evidence, **values)


@check("Machine", "Load", "status")
def load(_: System) -> Finding:
    averages, processors = os.getloadavg(), os.cpu_count() or 1
    evidence = ", ".join(f"{average:.2f}" for average in averages) + f" on {processors} processors"
    if averages[2] > 2 * processors:
        return warn(evidence, "top -b -n 1 | head -20", averages=averages)
    return ok(evidence, averages=averages)


@check("Machine", "Temperature", "status")
def temperature(_: System) -> Finding | None:
    temperatures = [int(path.read_text()) / 1000 for path in THERMAL.glob("thermal_zone*/temp")]
    if not temperatures:
        return None
    evidence = f"{max(temperatures):.0f} °C"
    if max(temperatures) >= HOT:
        judge = wrong if max(temperatures) >= TOO_HOT else warn
        return judge(evidence, "give it a heat sink or a fan", celsius=max(temperatures))
    return ok(evidence, celsius=max(temperatures))


@check("Machine", "Power", "status")
def power(_: System) -> Finding | None:
    try:
        answer = output("vcgencmd", "get_throttled")
    except FileNotFoundError:
        return None  # no Pi
    now, before = decoded(int(answer.strip().partition("=")[2], 16))
    if now:
        return wrong(f"now: {', '.join(now)}", POWER, now=now, since_boot=before)
    if before:
        return warn(f"since the start: {', '.join(before)}", POWER, now=[], since_boot=before)
    return ok("never short since the start", now=[], since_boot=[])


def decoded(bits: int) -> tuple[list[str], list[str]]:
    """The flags that are set now, and those that were set since the start."""
    return tuple(  # type: ignore[return-value]
        [what for place, what in enumerate(THROTTLED) if bits & 1 << place + shift]
        for shift in (0, 16)
    )


@check("Machine", "Restart", "status")
def restart(_: System) -> Finding:
    if not REBOOT.exists():
        return ok("not needed", needed=False)
    packages = REBOOT.with_name("reboot-required.pkgs")
    names = sorted(set(packages.read_text().split())) if packages.exists() else []
    evidence = f"needed{' for ' if names else ''}{', '.join(names)}"
    return warn(evidence, "systemctl reboot; running tasks finish first", needed=True)
