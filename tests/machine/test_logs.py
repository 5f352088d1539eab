"""Logs: one place, every line once, over rotations and bursts; a week of the app's own files."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.harness import APP, deploy, in_app, pids, send, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

LINES = 20_000
LIMITED = b"[Service]\nLogRateLimitIntervalSec=30s\nLogRateLimitBurst=100\n"
RUNTIME = "/run/systemd/system/celery-worker.service.d"
VOLATILE = "/usr/lib/systemd/journald.conf.d/40-rpi-volatile-storage.conf"
ROTATION = "/etc/logrotate.d/celery-pi"
LOG = f"{APP}/logs/site.log"

# Three processes that hold the file open, as Django's logging.FileHandler does.
WRITE = f"""
import logging, sys
from multiprocessing import Process
def write(writer):
    logger = logging.getLogger(); logger.addHandler(logging.FileHandler("{LOG}"))
    for number in range(int(sys.argv[1])):
        logger.warning("%d %d", writer, number)
writers = [Process(target=write, args=(writer,)) for writer in range(3)]
[writer.start() for writer in writers]
[writer.join() for writer in writers]
"""


def burst(pi: VirtualPi, name: str) -> Counter[int]:
    """How often each of a task's many lines is in the journal, which is rotated meanwhile."""
    with ThreadPoolExecutor(1) as task:
        code = f"probes.burst.delay({name!r}, {LINES}).get(timeout=90)"
        running = task.submit(in_app, pi, f"from observations_nids import probes; {code}")
        while not running.done():
            pi.run("journalctl", "--rotate")
        running.result()
    pi.run("journalctl", "--sync")
    told = pi.run("journalctl", "-q", "-o", "cat", "-u", "celery-worker").stdout
    return Counter(int(number) for number in re.findall(rf"{name} (\d+)$", told, re.MULTILINE))


def test_no_line_of_a_burst_is_lost_or_doubled_while_the_journal_is_rotated(pi: VirtualPi) -> None:
    assert burst(pi, "burst") == Counter(range(LINES))


def test_burst_loses_lines_where_journald_limits_the_rate(pi: VirtualPi) -> None:
    """What the test above would see."""
    pi.run("sh", "-c", f"mkdir -p {RUNTIME}; cat >{RUNTIME}/limited.conf", input=LIMITED)
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "restart", "celery-worker")
    assert len(burst(pi, "limited")) < LINES / 2
    pi.run("rm", "-r", RUNTIME)
    pi.run("systemctl", "daemon-reload")
    pi.run("systemctl", "restart", "celery-worker")


def test_one_command_shows_the_lines_of_every_service(pi: VirtualPi) -> None:
    send(pi, "log", "heard in the nest box")
    pi.run("systemctl", "restart", "redis-server")
    pi.run("journalctl", "--sync")
    command = ("journalctl", "-q", "-o", "json", "-u", "celery-*", "-u", "redis-server")
    shown = [json.loads(line) for line in pi.run(*command).stdout.splitlines()]
    by_unit: dict[str, str] = {}
    for line in shown:
        unit = line.get("_SYSTEMD_UNIT", "")
        by_unit[unit] = by_unit.get(unit, "") + str(line["MESSAGE"]) + "\n"
    assert "heard in the nest box" in by_unit["celery-worker.service"]
    assert "Sending due task" in by_unit["celery-beat.service"]
    assert "Ready to accept connections" in by_unit["redis-server.service"]
    wait_for("all are well", lambda: pids(pi))


def test_journal_is_kept_on_the_disk_also_where_the_image_says_otherwise(pi: VirtualPi) -> None:
    pi.run("sh", "-c", f"cat >{VOLATILE}", input=b"[Journal]\nStorage=volatile\n")
    pi.run("systemctl", "restart", "systemd-journald")
    pi.run("logger", "kept for a week")
    pi.run("journalctl", "--sync")
    kept = ("journalctl", "-q", "-o", "cat", "-D", "/var/log/journal")
    assert "kept for a week" in pi.run(*kept).stdout
    pi.run("rm", VOLATILE)


def test_journal_takes_the_room_it_may(pi: VirtualPi) -> None:
    since = f"@{time.time():.0f}"
    assert deploy(pi, journal_max_use="64mb").changed == {
        *("Logs | Configure", "Logs | Let the journal take it over"),
        "Command | Install celery-pi",
    }
    journald = ("journalctl", "-q", "-o", "cat", "-t", "systemd-journald", "--since", since)
    assert re.search(r"System Journal .*, max 64M", pi.run(*journald).stdout)
    assert deploy(pi).status == 0


def logged(pi: VirtualPi) -> Counter[str]:
    """Every line of the log and of what was rotated, the oldest first."""
    numbered = "ls {0}.*.gz 2>/dev/null | sort -t. -k3 -nr | xargs -r zcat; cat {0}"
    return Counter(pi.run("sh", "-c", numbered.format(LOG)).stdout.splitlines())


def rotate_while_written(pi: VirtualPi, config: str, lines: int) -> Counter[str]:
    """What is in the files when three processes have written and the log was rotated meanwhile."""
    pi.run("sh", "-c", f"rm -f {LOG}*")
    with ThreadPoolExecutor(1) as site:
        writing = site.submit(
            pi.run, "runuser", "-u", "www-data", "--", "python3", "-c", WRITE, str(lines)
        )
        wait_for("lines", lambda: pi.run("test", "-s", LOG, check=False).returncode == 0)
        rotations = 0
        while not writing.done() and rotations < 6:
            pi.run("logrotate", "--force", config)
            rotations += 1
        assert rotations > 1
        writing.result()
    return logged(pi)


WRITTEN = 200_000


def test_no_line_of_the_apps_own_files_is_lost_while_they_are_rotated(pi: VirtualPi) -> None:
    expected = {f"{writer} {number}" for writer in range(3) for number in range(WRITTEN)}
    found = rotate_while_written(pi, ROTATION, WRITTEN)
    assert found == Counter(expected)
    owner = pi.run("stat", "-c", "%U", f"{LOG}.1.gz").stdout
    assert owner == "www-data\n"


def test_usual_way_of_rotating_them_loses_lines(pi: VirtualPi) -> None:
    """What the test above would see of logrotate's copytruncate."""
    usual = f"{LOG} {{\n su www-data www-data\n rotate 7\n compress\n copytruncate\n}}\n"
    pi.run("sh", "-c", "cat >/root/usual", input=usual.encode())
    found = rotate_while_written(pi, "/root/usual", WRITTEN)
    assert sum(found.values()) < 3 * WRITTEN


def test_seven_days_are_kept_and_debians_timer_rotates(pi: VirtualPi) -> None:
    pi.run("sh", "-c", f"rm -f {LOG}*")
    append = f"seq 100000 100999 | runuser -u www-data -- tee -a {LOG}"
    for _ in range(8):
        pi.run("sh", "-c", append)
        pi.run("logrotate", "--force", ROTATION)
    yesterday = f'logrotate state -- version 2\n"{LOG}" 2020-1-1-0:0:0\n'
    pi.run("sh", "-c", f"{append}; cat >/var/lib/logrotate/status", input=yesterday.encode())
    pi.run("touch", f"{LOG}.1.gz", "--date=2020-01-01")
    pi.run("systemctl", "start", "logrotate.service")
    assert pi.run("find", f"{LOG}.1.gz", "-newermt", "2021-01-01").stdout != ""
    names = pi.run("sh", "-c", f"ls {LOG}*").stdout.split()
    assert sorted(names) == sorted([LOG, *(f"{LOG}.{day}.gz" for day in range(1, 8))])
    assert pi.run("systemctl", "is-enabled", "logrotate.timer").stdout == "enabled\n"
    pi.run("sh", "-c", f"rm {LOG}*")
