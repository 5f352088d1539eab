"""A component that is added as docs/CONTRIBUTING.md says is known to all that concerns it.

Its files lie in `tests/memcached/`, as they would lie in the project. Beside them, only `deploy.py`
is changed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from celery_pi.fact_cache import FILE as FACTS
from celery_pi.render import ROOT
from tests.helpers.harness import Outcome, pids, pyinfra
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

OURS = ROOT / "tests/memcached"
DROP_IN = "/etc/systemd/system/memcached.service.d"
WHAT = ("inventory.py", "deploy.py")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with the component."""
    root = tmp_path_factory.mktemp("project")
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    shutil.copytree(OURS, root, dirs_exist_ok=True)
    deploy = root / "deploy.py"
    text = deploy.read_text().replace("    logs,\n", "    logs,\n    memcached,\n")
    deploy.write_text(text.replace("nginx.deploy()\n", "memcached.deploy()\nnginx.deploy()\n"))
    return root


class Project:
    """That copy, and a machine."""

    def __init__(self, root: Path, pi: VirtualPi) -> None:
        self.root, self.pi = root, pi

    def deploy(self, *what: str, **settings: object) -> Outcome:
        given = [word for name, value in settings.items() for word in ("--data", f"{name}={value}")]
        return pyinfra(self.pi, "--json", "-y", *given, *(what or WHAT), cwd=self.root)

    def look(self, command: str) -> dict[str, Any]:
        """Rows of `celery-pi status` or `audit`, by their names."""
        shown = json.loads(self.pi.run("celery-pi", command, "--json", check=False).stdout)
        return {row["name"]: row for row in shown["checks"]}

    def manifest(self) -> dict[str, Any]:
        """What it says, but for the cache of facts, which a deploy that changes something fills."""
        found = dict(json.loads(self.pi.run("cat", "/etc/celery-pi/manifest.json").stdout))
        found["files"].pop(FACTS)
        return found

    def state(self) -> str:
        return self.pi.run("systemctl", "is-active", "memcached", check=False).stdout.strip()


@pytest.fixture(scope="module")
def deployed(project: Path, second_pi: VirtualPi) -> Project:
    """The machine with memcached, at a port of its own."""
    before = pids(second_pi)
    made = Project(project, second_pi)
    done = made.deploy(memcached_port=11300)
    assert {"memcached | Configure", "memcached | Run"} <= done.changed
    assert pids(second_pi) == before, "nothing else was started again"
    return made


def test_second_deploy_changes_nothing(deployed: Project) -> None:
    before = deployed.manifest()
    assert deployed.deploy(memcached_port=11300).changed == set()
    assert deployed.manifest() == before


def test_misspelt_setting_of_it_is_refused_with_the_one_that_was_meant(deployed: Project) -> None:
    refused = deployed.deploy(memcached_prot=11300)
    assert refused.status != 0
    assert "memcached_prot is no setting; did you mean memcached_port?" in refused.output
    refused = deployed.deploy(memcached_port=80)
    assert "memcached_port should be greater than or equal to 1024" in refused.output


def test_status_shows_its_unit_and_its_own_check(deployed: Project) -> None:
    rows = deployed.look("status")
    assert rows["memcached"]["state"] == "ok"
    assert rows["memcached"]["evidence"].startswith("active (running)")
    assert rows["Answers"]["evidence"] == "0 items at port 11300"


def test_audit_knows_its_user_and_its_sandbox_and_that_nobody_reaches_it(deployed: Project) -> None:
    rows = deployed.look("audit")
    assert rows["Users of the units"]["values"]["users"]["memcached"] == "memcache"
    assert rows["Sandboxes"]["values"]["memcached"] <= 2.0
    assert {rows[name]["state"] for name in ("Users of the units", "Sandboxes")} == {"ok"}
    assert 11300 not in rows["Listening TCP sockets"]["values"]["ports"]
    assert not [port for port in rows["Firewall"]["values"]["open"] if port.startswith("11300")]
    assert rows["Drift"]["state"] == "ok"


def test_doctor_tells_what_is_missing_while_it_is_down(deployed: Project) -> None:
    deployed.pi.run("systemctl", "stop", "memcached")
    try:
        said = deployed.pi.run("celery-pi", "doctor", check=False).stdout
        assert "memcached is down" in said
        assert "the app has no cache" in said
    finally:
        deployed.pi.run("systemctl", "start", "memcached")


def test_run_of_another_component_alone_forgets_nothing(deployed: Project) -> None:
    before = deployed.manifest()
    alone = deployed.deploy("inventory.py", "tasks.beat.deploy", memcached_port=11300)
    assert alone.changed == set()
    assert deployed.manifest() == before


def test_switched_off_it_is_gone(deployed: Project) -> None:
    assert "memcached" in {unit["name"].removesuffix(".service") for unit in units(deployed)}
    off = deployed.deploy(memcached=False)
    assert "memcached | Remove" in off.changed
    assert deployed.pi.run("test", "-e", f"{DROP_IN}/celery-pi.conf", check=False).returncode != 0
    assert deployed.state() == "inactive"
    assert deployed.manifest()["components"]["memcached"]["enabled"] is False
    assert "memcached.service" not in {unit["name"] for unit in units(deployed)}
    assert not {"memcached", "Answers"} & set(deployed.look("status"))
    assert "memcached" not in deployed.look("audit")["Sandboxes"]["values"]
    assert deployed.deploy(memcached=False).changed == set()


def units(project: Project) -> list[dict[str, Any]]:
    return [unit for each in project.manifest()["components"].values() for unit in each["units"]]
