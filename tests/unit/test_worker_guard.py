"""What a plan says of the worker: guarded, plain, or not yet known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from celery_pi.app_packages import locked
from celery_pi.settings import Settings
from celery_pi.worker_guard import warning
from celery_redis_guard.mode import NOT_PROMISED
from celery_redis_guard.tested_sets import TESTED_SETS
from tasks import app
from tests.helpers.fake import run

TESTED = TESTED_SETS["A"]
PINS = (f"celery=={TESTED.celery}", f"kombu[redis]=={TESTED.kombu}", f"redis=={TESTED.redis}")
BILLIARD = {"billiard": TESTED.billiard}


@pytest.mark.parametrize(
    ("installed", "own"),
    [(BILLIARD, {}), ({}, BILLIARD), ({**BILLIARD, "celery": "99.0"}, {"billiard": "0.1"})],
    ids=["installed", "locked", "changed by the pins"],
)
def test_tested_set_needs_no_sentence(installed: dict[str, str], own: dict[str, str]) -> None:
    assert warning("auto", PINS, installed, own) == ""
    assert warning("on", PINS, installed, own) == ""


def test_what_we_install_is_a_tested_set() -> None:
    ours = {package.name: str(package.version) for package in locked()}
    assert warning("auto", Settings().app_pins, {}, ours) == ""


def test_other_set_is_plain_and_the_sentence_says_what_is_not_promised() -> None:
    told = warning("auto", ("celery==99.0", *PINS[1:]), BILLIARD, {})
    assert told.startswith("the worker will be plain Celery, because no tested set is celery 99.0")
    assert NOT_PROMISED in told


def test_what_the_owner_chose_is_told() -> None:
    assert NOT_PROMISED in warning("off", PINS, BILLIARD, {})
    told = warning("on", ("celery==99.0", *PINS[1:]), BILLIARD, {})
    assert told.startswith("the worker will be guarded, because worker_guard is on")


def test_version_that_pip_chooses_is_not_guessed() -> None:
    assert warning("auto", PINS, {}, {}).startswith("pip chooses billiard")
    assert NOT_PROMISED in warning("off", PINS, {}, {})


def test_task_tells_it_on_each_run_by_what_lies_in_the_environment(tmp_path: Path) -> None:
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(Path(sys.executable).resolve())
    packages = tmp_path / f"venv/lib/{python.resolve().name}/site-packages"
    (packages / "billiard-99.0.dist-info").mkdir(parents=True)
    settings = Settings(
        app_dir=str(tmp_path), app_pins=("celery==5.6.3", "kombu==5.7.0", "redis==8.1.0")
    )
    for _ in range(2):
        assert "billiard 99.0" in run(lambda: app._tell_guard(settings)).shown
    (packages / "billiard-99.0.dist-info").rename(packages / "billiard-4.3.2.dist-info")
    assert "worker" not in run(lambda: app._tell_guard(settings)).shown
