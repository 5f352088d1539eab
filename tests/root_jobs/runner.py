"""Runs jobs of root's one after the other, as a person at a terminal would, and looks on.

    python3 -m tests.root_jobs.runner MARKER <JOBS

JOBS is JSON: each job with `name`, `command`, `limit` in seconds and, where a person would give up,
`interrupt`. Prints a line of JSON for each: how it ended, what it said, what was seen. Each job has
more of root's than its children may have: a terminal, an open file, a variable. Runs on the
machine; standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from pwd import getpwuid
from typing import Any

from tests.root_jobs import canaries
from tests.root_jobs.process_watcher import Process, ProcessWatcher

EXTRA, NUMBER = Path("/root/celery-pi-walk.open"), 9
VARIABLE = "CELERY_PI_WALK"
AFTER = 0.2  # seconds for what it has left behind
LONGEST = 2**22  # bytes of what it says


def run(job: dict[str, Any], marker: str) -> dict[str, Any]:
    main, theirs = pty.openpty()
    terminal = os.ttyname(theirs)
    watcher = ProcessWatcher(terminal, str(EXTRA), marker)
    before = canaries.state()
    pid = _start(job["command"], theirs, marker)
    os.close(theirs)
    os.set_blocking(main, False)
    began, said, interrupted = time.monotonic(), bytearray(), False
    is_hung, ended = False, 0.0
    while not ended or time.monotonic() < ended + AFTER:
        watcher.look()
        with suppress(OSError):  # nothing yet, or nobody has it open any more
            said += os.read(main, 2**16)[: LONGEST - len(said)]
        seconds = time.monotonic() - began
        if not ended and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            ended = time.monotonic()
        elif not ended and seconds > job["limit"]:
            is_hung = True
            _end(pid)
        elif job.get("interrupt") and seconds > job["interrupt"] and not interrupted:
            os.write(main, b"\x03")
            interrupted = True
    if is_hung:  # what systemd still waits for would keep the next ones waiting
        subprocess.run(["systemctl", "cancel"], check=False)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):
        while block := os.read(main, 2**16):
            said += block[: LONGEST - len(said)]
    os.close(main)
    return {
        **{"name": job["name"], "status": status, "seconds": round(ended - began, 2)},
        **{"hung": is_hung, "said": said.decode(errors="replace"), "looks": watcher.looks},
        "touched": canaries.touched(before, canaries.state()),
        "processes": [_told(process) for process in watcher.seen.values()],
    }


def _start(command: list[str], terminal: int, marker: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        extra = os.open(EXTRA, os.O_RDWR | os.O_CREAT, 0o600)
        for source, number in ((terminal, 0), (terminal, 1), (terminal, 2), (extra, NUMBER)):
            os.dup2(source, number)
        for number in range(3, 64):
            if number != NUMBER:
                with suppress(OSError):
                    os.close(number)
        os.execvpe(command[0], command, {**os.environ, VARIABLE: marker})  # noqa: S606
    finally:
        os._exit(127)


def _end(pid: int) -> None:
    """The job with all that it has started, but for what is in a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _told(process: Process) -> dict[str, Any]:
    return {
        **{"command": process.command, "user": getpwuid(process.user)[0], "memory": process.memory},
        **{"large": process.is_large, "judged": process.is_judged, "has": sorted(process.has)},
    }


def main(marker: str) -> None:
    for job in json.load(sys.stdin):
        print(json.dumps(run(job, marker)), flush=True)
    EXTRA.unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
