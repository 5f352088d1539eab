"""The machines that are attacked: one as it is now, and with `make attacks` one as commit 06a3844
deploys it, where each attack succeeds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.attacks.attacker import APP, OLD, Victim
from tests.conftest import _name, _one_process_at_a_time, _shared, make
from tests.helpers.harness import ROOT, earlier_source, pyinfra, run
from tests.virtual_pi import VirtualPi
from tests.virtual_pi.image import image_name
from tests.virtual_pi.platforms import native_platform

BOTH = "CELERY_PI_ATTACKS"
# What stops a victim at the place. It is no part of what is tested.
STRACE = "command -v strace || { apt-get update -q && apt-get install -q -y strace; }"

# docs/operate/app-user.md, for a site that ran as www-data.
OWN_USER = f"""
set -e
useradd --system --user-group --shell /usr/sbin/nologin birds
usermod -aG birds www-data
celery-pi maintenance on
chown -R birds: {APP}/.env {APP}/media {APP}/logs {APP}/data
"""
ITS_SITE = "systemctl restart nginx && celery-pi maintenance off"


@pytest.fixture(scope="session")
def old_source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The source as it was then, in a work tree of its own."""
    with ExitStack() as stack:
        source = earlier_source(OLD, tmp_path_factory.mktemp("source"))
        with _one_process_at_a_time(request, tmp_path_factory, "worktree"):
            tree = stack.enter_context(source)
        yield tree


@pytest.fixture(scope="session")
def old_image(
    request: pytest.FixtureRequest,
    _host: None,
    old_source: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """Image of a machine that was deployed from that source."""
    tag = f"{request.config.getoption('--scope')}-{OLD}"
    name = f"{image_name(native_platform())}:{tag}"
    known = run("docker", "image", "inspect", name).status == 0
    if request.config.getoption("--reuse") and known:
        return name
    pi = VirtualPi(_name(request, native_platform(), OLD), native_platform())
    with _one_process_at_a_time(request, tmp_path_factory, pi.name) as shared:
        done = shared / f"{pi.name}.done"
        if not done.exists():
            pi.down()
            make("up", pi)
            outcome = pyinfra(pi, "-y", "inventory.py", "deploy.py", cwd=old_source)
            assert outcome.status == 0, outcome.output
            pi.run("sh", "-c", STRACE)
            pi.snapshot(tag)
            pi.down()
            done.touch()
    return name


@pytest.fixture(scope="module", params=[OLD, "now"] if BOTH in os.environ else ["now"])
def victim(request: pytest.FixtureRequest, machines: dict[str, VirtualPi]) -> Iterator[Victim]:
    """A machine that a module may attack if it mends it again; else the next gets another."""
    is_old = request.param == OLD
    image = request.getfixturevalue("old_image" if is_old else "native_image")
    source = request.getfixturevalue("old_source") if is_old else ROOT
    process = getattr(request.config, "workerinput", {}).get("workerid", "main")
    name = _name(request, native_platform(), process, "attack", request.param)
    for pi in _shared(request, machines, VirtualPi(name, native_platform(), image)):
        pi.run("sh", "-c", STRACE)
        yield Victim(pi, source, is_old)


@pytest.fixture(scope="module")
def birds(request: pytest.FixtureRequest, native_image: str) -> Iterator[Victim]:
    """A machine as it is now, whose app has a user of its own."""
    process = getattr(request.config, "workerinput", {}).get("workerid", "main")
    name = _name(request, native_platform(), process, "birds")
    pi = VirtualPi(name, native_platform(), native_image)
    pi.down()
    try:
        pi.up()
        pi.run("sh", "-c", OWN_USER)
        victim = Victim(pi, ROOT, is_old=False)
        outcome = victim.deploy(app_user="birds")
        assert outcome.status == 0, outcome.output
        pi.run("sh", "-c", ITS_SITE)
        yield victim
    finally:
        pi.down()
