"""A deploy onto a live site, killed at each of its operations: `make cut-off`.

Each time anew: the site as its owner runs it, a deploy that is killed when it begins an operation,
then the site's answer and a task through its queue, by the old worker or the new one; and a deploy
that completes it. CELERY_PI_CUT_OFF=1 means all, another value those whose names have it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.helpers.harness import PYINFRA, ROOT, deploy, wait_for
from tests.sites.build import APP, Site
from tests.sites.client import Client
from tests.sites.test_live_site import OWNERS

CUT_OFF = "CELERY_PI_CUT_OFF"
pytestmark = [
    pytest.mark.native,
    pytest.mark.counts,
    pytest.mark.skipif(CUT_OFF not in os.environ, reason=f"takes hours: {CUT_OFF}=1"),
]
SETTINGS: dict[str, object] = {"app_dir": APP, **OWNERS}
BACK = 60  # seconds until the old worker is back at the latest: the lock's lease, and its start
BEGINS = "--> Starting operation: "


def begun(site: Site, kill_at: str = "") -> list[str]:
    """Names of the operations that a deploy has begun; killed, and its children, at that one."""
    data = [word for key, value in SETTINGS.items() for word in ("--data", f"{key}={value}")]
    process = subprocess.Popen(
        [PYINFRA, "-y", *data, "inventory.py", "deploy.py"],
        cwd=ROOT,
        env=os.environ | {"CELERY_PI_HOST": f"@docker/{site.pi.name}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    names = []
    assert process.stdout
    for line in process.stdout:
        if line.startswith(BEGINS):
            names.append(line.removeprefix(BEGINS).strip())
            if names[-1] == kill_at:
                os.killpg(process.pid, signal.SIGKILL)
                break
    process.wait()
    return names


@pytest.mark.parametrize("half", [0, 1])
def test_killed_at_each_operation_the_site_and_its_queue_go_on(site: Site, half: int) -> None:
    """Two processes of pytest-xdist do a half each, at the same time."""
    site.pi.down()
    site.pi.up()
    names = begun(site)
    assert len(names) > 50
    wanted = os.environ[CUT_OFF]
    chosen = names if wanted == "1" else [name for name in names if wanted in name]
    assert chosen
    failed = []
    for name in chosen[half::2]:
        site.pi.down()
        site.pi.up()
        begun(site, kill_at=name)
        try:
            client = Client(site)
            assert site.ask("/")[0] == 200
            since = time.monotonic()
            (task,) = client.send("seen")
            wait_for("its task", lambda task=task: task in site.runs(), BACK)
            waited = time.monotonic() - since
            told = deploy(site.pi, **SETTINGS)
            assert told.status == 0, told.output[-2000:]
            assert "SUCCESS" in site.pi.run("celery-pi", "prove").stdout
            print(f"{name}: its task after {waited:.0f} s", flush=True)
        except Exception as error:
            failed.append(f"{name}: {error}")
            print(failed[-1], flush=True)
    assert failed == []
