"""The disk that Redis writes to fills up while tasks are sent, and has room again later."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, in_app, pids, prove, redis, wait_for
from tests.helpers.status_output import CALM, ask
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

DATA = "/var/lib/redis"
NOTES = f"{APP}/media/full-disk"
LEFT = 300  # KiB, of a disk of 1 GiB
# Numbers of the tasks that were accepted, and of how many it was said that they were not.
SEND = """
import json, time
from observations_nids.tasks import note
accepted, refused = [], 0
for number in range(4000):
    try:
        note.apply_async(("full-disk", number), retry=False)
    except Exception:
        refused += 1
        if refused == 3:
            break
        time.sleep(0.2)
    else:
        accepted.append(number)
print(json.dumps([accepted, refused]))
"""


@pytest.fixture
def small_disk(pi: VirtualPi) -> Iterator[None]:
    """Redis' data lie on a disk of their own, as they were; what it had before comes back."""
    pi.run(*CALM)
    pi.run("systemctl", "stop", "redis-server")
    pi.run("cp", "-a", DATA, "/root/data")
    pi.run("mount", "-t", "tmpfs", "-o", "size=1g,mode=750,uid=redis,gid=redis", "tmpfs", DATA)
    pi.run("sh", "-c", f"cp -a /root/data/. {DATA}; rm -r /root/data")
    pi.run("systemctl", "start", "redis-server")
    wait_for("all are up", lambda: pids(pi), 60)
    try:
        yield
    finally:
        pi.run("systemctl", "stop", "redis-server")
        pi.run("umount", DATA)
        pi.run("systemctl", "start", "redis-server")
        pi.run("rm", "-f", NOTES)
        wait_for("all are up", lambda: pids(pi), 60)


def ran(pi: VirtualPi) -> set[int]:
    return set(map(int, pi.run("cat", NOTES, check=False).stdout.split()))


@pytest.mark.usefixtures("small_disk")
def test_full_disk_costs_no_accepted_task_and_is_over_when_there_is_room(pi: VirtualPi) -> None:
    prove(pi)
    free = int(pi.run("df", "--output=avail", "-k", DATA).stdout.split()[1])
    pi.run("fallocate", "-l", f"{free - LEFT}k", f"{DATA}/fill")
    accepted, refused = json.loads(in_app(pi, SEND))
    assert accepted
    assert refused, "the disk was not full"
    seen = ask(pi)
    assert seen.status == 1
    assert {"Append-only file", f"Disk of {DATA}"} <= seen.names("wrong")
    told = json.loads(pi.run("celery-pi", "doctor", "--json", check=False).stdout)["problems"]
    assert "A disk is full" in [each["name"] for each in told]

    pi.run("rm", f"{DATA}/fill")
    wait_for("all have run", lambda: set(accepted) <= ran(pi), 120)
    wait_for("nothing is left", lambda: redis(pi, "hlen", "unacked") == "0", 60)
    pids(pi)
    prove(pi)
    wait_for(
        "all is well",
        lambda: not {"Append-only file", f"Disk of {DATA}"} & ask(pi).names("wrong"),
        60,
    )
