"""A Pi that an earlier version has deployed is taken over by one deploy.

`make earlier` runs it, for the versions below; it takes some minutes for each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import _name, make
from tests.helpers.harness import (
    APP,
    deploy,
    earlier_source,
    in_app,
    prove,
    pyinfra,
    redis,
    wait_for,
)
from tests.helpers.status_output import ask
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.platforms import native_platform

DRILL = "CELERY_PI_EARLIER"
VERSIONS = {
    "06a3844": "the first that was published",
    "45a8d3a": "the last one whose tools lay in one directory, without packages",
}
pytestmark = [
    pytest.mark.native,
    pytest.mark.counts,
    pytest.mark.skipif(DRILL not in os.environ, reason=f"a drill of some minutes: {DRILL}=1"),
]

TASKS = 200
SEND = f"""
from observations_nids.tasks import trace
print(*(trace.delay("earlier", 0.5).id for _ in range({TASKS})))
"""
RUNS = f"{APP}/media/earlier"
# Ours, wherever they are. What differs by nature: archives, records, what was there before.
PLACES = (
    *("/usr/local/lib/celery-pi", "/usr/local/bin", "/etc", "/var/lib/celery-pi"),
    *("/var/lib/celery-beat", "/var/lib/celery-flower", "/var/cache/celery-pi", "/run"),
)
FIND = f"find {' '.join(PLACES)} -name '*celery*' -o -path '*celery*' -o -name 'redis*'"
DIFFERING = re.compile(
    r"/var/lib/celery-pi/(deploys|before|before-restore-[^/]*)(/.*)?"
    r"|/var/lib/celery-pi/(backup|drill)\.json|/var/lib/celery-pi/smoke-test.*"
    r"|/run/systemd/.*|/run/udev/.*|/run/user/.*|/run/celery-pi(/[a-z]*\.?lock)?"
    r"|.*/__pycache__(/.*)?|/etc/celery-pi/secrets/.*\.old"
)


@dataclass
class Earlier:
    """A machine as that version left it, with its tasks."""

    pi: VirtualPi
    tasks: list[str] = field(default_factory=list)
    archives: set[str] = field(default_factory=set)


@pytest.fixture(scope="module", params=VERSIONS)
def earlier(
    request: pytest.FixtureRequest, _host: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Earlier]:
    """Deployed, with a backup and new passwords, as its own commands do it."""
    pi = VirtualPi(_name(request, native_platform(), request.param), native_platform())
    pi.down()
    try:
        make("up", pi)
        with earlier_source(request.param, tmp_path_factory.mktemp("source")) as tree:
            for what in ("deploy.py", "tasks.rotation.deploy"):
                done = pyinfra(pi, "-y", "inventory.py", what, cwd=tree)
                assert done.status == 0, done.output
        pi.run("celery-pi", "backup", timeout=300)
        assert "SUCCESS" in prove(pi)
        yield Earlier(pi, archives=archives(pi))
    finally:
        pi.down()


def archives(pi: VirtualPi) -> set[str]:
    return set(pi.run("sh", "-c", "ls /var/backups/celery-pi/*.tar.gz").stdout.split())


def ours(pi: VirtualPi) -> set[str]:
    found = pi.run("sh", "-c", FIND).stdout.split("\n")
    return {path for path in found if path and not DIFFERING.fullmatch(path)}


def runs(pi: VirtualPi) -> list[str]:
    return pi.run("cat", RUNS, check=False).stdout.splitlines()


def test_one_deploy_takes_it_over_and_loses_no_task(earlier: Earlier) -> None:
    earlier.tasks = in_app(earlier.pi, SEND).split()
    waiting = int(redis(earlier.pi, "llen", "celery"))

    done = deploy(earlier.pi, board=True)

    assert done.status == 0, done.output
    assert waiting > TASKS * 3 / 4
    assert "the setting board is called raspberry_pi now" in done.output
    wait_for("all end", lambda: sum(" end " in line for line in runs(earlier.pi)) >= TASKS, 200)
    assert len(set(earlier.tasks)) == TASKS
    assert {line.split()[0] for line in runs(earlier.pi) if " end " in line} == set(earlier.tasks)
    assert sum(" end " in line for line in runs(earlier.pi)) == TASKS
    print(f"{waiting} waited; {sum(' start 2' in line for line in runs(earlier.pi))} began twice")


def test_second_deploy_changes_nothing(earlier: Earlier) -> None:
    assert deploy(earlier.pi, board=True).changed == set()
    assert deploy(earlier.pi).changed == set()


def test_nothing_of_the_old_layout_is_left(earlier: Earlier, second_pi: VirtualPi) -> None:
    assert ours(earlier.pi) - ours(second_pi) == set()
    assert ours(second_pi) - ours(earlier.pi) == set()


def test_all_is_well_and_the_old_backup_can_be_restored(earlier: Earlier) -> None:
    assert "SUCCESS" in prove(earlier.pi)
    for view in ("status", "audit"):
        assert ask(earlier.pi, view).status == 0, ask(earlier.pi, view).names("wrong")
    assert earlier.archives
    assert earlier.archives <= archives(earlier.pi)
    (old,) = earlier.archives
    earlier.pi.run("celery-pi", "restore", "--yes", old, timeout=400)
    assert "SUCCESS" in prove(earlier.pi)


def test_guard_of_what_is_left_can_fail(earlier: Earlier, second_pi: VirtualPi) -> None:
    path = Path("/usr/local/lib/celery-pi/left.py")
    earlier.pi.run("touch", str(path))
    assert ours(earlier.pi) - ours(second_pi) == {str(path)}
    earlier.pi.run("rm", str(path))
