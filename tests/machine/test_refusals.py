"""Bad settings and bad machines are refused, all problems at once, before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.harness import APP, deploy, fingerprint
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.debian12

OS = "/etc/os-release"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"redis_prot": 7000}, "redis_prot is no setting; did you mean redis_port?"),
        ({"redis_port": 80}, "redis_port should be greater than or equal to 1024"),
        ({"redis_maxmemory": "lots"}, "redis_maxmemory must be a number with kb, mb or gb"),
        ({"redis_maxmemory": "60%"}, "redis_maxmemory must be from 1% to 50%"),
        ({"app_units": "gunicorn.service"}, "it has no unit gunicorn.service (app_units)"),
        ({"redis_maxmemory": "999gb"}, "is more than half of its memory"),
        ({"redis_maxmemory_policy": "allkeys-lru"}, "evicts whole queues"),
        ({"celery_concurrency": 0}, "celery_concurrency should be greater"),
        ({"app_user": "nobody-here"}, "it has no user nobody-here"),
        ({"app_dir": "/srv/none"}, "there is no Django project in /srv/none"),
        ({"app_module": "other"}, "has no Python module other"),
        ({"app_pins": '["celery>=5"]'}, "must be exact pins"),
        ({"redis_password_file": "/nonexistent"}, "cannot be read"),
    ],
)
def test_bad_setting_is_refused(pi: VirtualPi, settings: dict[str, object], said: str) -> None:
    refused(pi, [said], **settings)


@pytest.mark.parametrize(
    ("break_it", "mend_it", "said"),
    [
        (
            f"mv {OS} {OS}.kept && printf 'ID=debian\\nVERSION_ID=11\\n' >{OS}",
            f"mv {OS}.kept {OS}",
            "it runs debian 11, not Debian 12 or 13",
        ),
        (
            f"mv {OS} {OS}.kept && printf 'ID=fedora\\nVERSION_ID=43\\n' >{OS}",
            f"mv {OS}.kept {OS}",
            "it runs fedora 43, not Debian 12 or 13",
        ),
        (
            f"sed -i.kept '3s/^/export /' {APP}/.env",
            f"mv {APP}/.env.kept {APP}/.env",
            "has `export` on line 3",
        ),
        (
            f"mv {APP}/observations_nids {APP}/kept",
            f"mv {APP}/kept {APP}/observations_nids",
            "has no Python module observations_nids",
        ),
        (
            f"sed -i.kept 's/^version.*/version = 3.9.2/' {APP}/venv/pyvenv.cfg",
            f"mv {APP}/venv/pyvenv.cfg.kept {APP}/venv/pyvenv.cfg",
            "has Python 3.9.2, older than 3.11",
        ),
        (
            f"mv {APP}/venv/pyvenv.cfg /root/kept",
            f"mv /root/kept {APP}/venv/pyvenv.cfg",
            "is no virtual environment",
        ),
    ],
)
def test_bad_machine_is_refused(pi: VirtualPi, break_it: str, mend_it: str, said: str) -> None:
    pi.run("sh", "-c", break_it)
    refused(pi, [said])
    pi.run("sh", "-c", mend_it)


def test_machine_without_room_is_refused(pi: VirtualPi) -> None:
    """A small file system over /var stands for a full one, and hides the project."""
    pi.run("mount", "-t", "tmpfs", "-o", "size=64m", "small", "/var")
    refused(pi, ["/var has", "there is no Django project"])
    pi.run("umount", "/var")


def test_every_problem_is_told_at_once(pi: VirtualPi) -> None:
    said = ["redis_port should be", "celery_concurrency should be", "did you mean app_dir?"]
    refused(pi, said, redis_port=1, celery_concurrency=0, app_dri="/x")


def test_single_component_is_refused_too(pi: VirtualPi) -> None:
    outcome = deploy(pi, redis_port=1)
    assert outcome.status == 1
    assert "redis_port should be" in outcome.stderr


def test_weak_password_is_refused_and_not_shown(pi: VirtualPi, tmp_path: Path) -> None:
    weak = tmp_path / "password"
    weak.write_text("hunter2-hunter2\n")
    outcome = refused(pi, ["holds 15 characters, and 32 are the least"], redis_password_file=weak)
    assert "hunter2" not in outcome


def refused(pi: VirtualPi, said: list[str], **settings: object) -> str:
    """The deploy ends with these words, without a traceback, and the machine is as before."""
    before = fingerprint(pi)
    outcome = deploy(pi, **settings)
    assert outcome.status == 1
    for words in said:
        assert words in outcome.stderr
    assert "Traceback" not in outcome.output
    assert fingerprint(pi) == before
    return outcome.output
