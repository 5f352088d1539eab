"""The memory that a pool process may take before it is replaced, for an app of any size.

A process that has more than `worker_max_memory_per_child` when a task ends is replaced. A new one
has what the app takes once it is loaded, so with a limit below that each task gets a new process.
Here the limit is at least the app's size and GROWTH.
"""

import os
from logging import getLogger
from pathlib import Path

GROWTH = 64 * 1024  # KiB that tasks may take beyond what the app takes
MIB = 1024  # KiB

logger = getLogger(__name__)


def app_size() -> int:
    """KiB that this process, which has loaded the app, takes now (proc_pid_statm(5))."""
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE") // 1024


def fitting(limit: int, size: int) -> int:
    """The limit for an app of that size; all in KiB."""
    return max(limit, size + GROWTH)


def sentence(limit: int, size: int) -> str:
    """Why the limit is not what the owner has set, or nothing; all in KiB."""
    used = fitting(limit, size)
    if used == limit:
        return ""
    return (
        f"the app takes {size // MIB} MB once it is loaded, and celery_max_memory_per_child is "
        f"{limit // MIB} MB: with that each task would get a new process, so {used // MIB} MB is "
        f"used; set celery_max_memory_per_child to {used // MIB}mb or more"
    )


def applied(limit: int) -> int:
    """The limit that the worker uses, in KiB, of which it logs what it goes by."""
    size = app_size()
    if told := sentence(limit, size):
        logger.warning("celery-pi: %s", told)
    else:
        logger.info(
            "celery-pi: the app takes %d MB; a process is replaced above %d MB",
            *(size // MIB, limit // MIB),
        )
    return fitting(limit, size)
