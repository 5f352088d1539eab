"""Settings of the kernel that Redis and a closed house need, in force now and after each boot."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.plan import will

SYSCTL = "/usr/lib/systemd/systemd-sysctl"

OVERCOMMIT = "/proc/sys/vm/overcommit_memory"
SOMAXCONN = "/proc/sys/net/core/somaxconn"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
PTRACE_SCOPE = "/proc/sys/kernel/yama/ptrace_scope"

# What is good in each; a kernel without huge pages, or without Yama, has no such file.
GOOD = {
    OVERCOMMIT: ("1",),
    SOMAXCONN: ("4096",),
    HUGE_PAGES: ("madvise", "never", ""),
    PTRACE_SCOPE: ("1", "2", "3", ""),
}

# A container shares all but its network with its host.
OF_THE_HOST = (OVERCOMMIT, HUGE_PAGES, PTRACE_SCOPE)


class KernelSettings(FactBase[dict[str, str]]):
    """Path and value of each setting; of a choice, the value chosen."""

    default = dict

    def command(self) -> StringCommand:
        paths = " ".join(GOOD)
        return StringCommand(f"for f in {paths}; do echo $f $(cat $f 2>/dev/null); done")

    def process(self, output: list[str]) -> dict[str, str]:
        values = {}
        for line in output:
            path, _, value = line.partition(" ")
            chosen = [word[1:-1] for word in value.split() if word.startswith("[")]
            values[path] = chosen[0] if chosen else value
        return values


def unfit(values: dict[str, str]) -> dict[str, str]:
    """Those of the settings that have no good value."""
    return {path: value for path, value in values.items() if value not in GOOD[path]}


@operation()
def kernel_settings(sysctl: str, tmpfiles: str, in_container: bool) -> Generator[StringCommand]:
    """What both drop-ins say is in force; fails when the kernel does not take it.

    In a container, what belongs to its host is left to it.
    """
    own = set(GOOD) - set(OF_THE_HOST if in_container else ())
    stale = sorted(own & set(unfit(host.get_fact(KernelSettings))))
    if not stale:
        host.noop("the kernel goes by the drop-ins")
        return
    for path in stale:
        name = path.removeprefix("/proc/sys/").replace("/", ".")
        will(host, "change", name, f"the kernel's, becomes {GOOD[path][0]}")
    yield StringCommand(SYSCTL, sysctl)
    if not in_container:
        yield StringCommand("systemd-tmpfiles --create", tmpfiles)
    for path in stale:
        good = " -e ".join(f"'^{value}$' -e '[[]{value}[]]'" for value in GOOD[path] if value)
        failure = f"{{ echo 'the kernel does not take {path}' >&2; false; }}"
        yield StringCommand(f"grep -q -e {good} {path} || {failure}")
