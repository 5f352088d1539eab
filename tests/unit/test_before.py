"""What was there before us is kept, once, and never what is ours."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from celery_pi.before import DIRECTORY, KEEP


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return tmp_path / "before"


def keep(before: Path, path: Path) -> None:
    script = KEEP.replace(DIRECTORY, str(before)) + '\nset -e\nkeep "$1"\n'
    subprocess.run(["sh", "-c", script, "sh", path], check=True, capture_output=True)


def copy(before: Path, path: Path) -> Path:
    return Path(f"{before}/files{path}")


def made(before: Path) -> list[str]:
    return (before / "ours").read_text().splitlines() if (before / "ours").exists() else []


def test_file_of_the_owners_is_kept_with_its_mode_and_time(before: Path, tmp_path: Path) -> None:
    path = tmp_path / "etc/celery-worker.service"
    path.parent.mkdir()
    path.write_text("[Unit]\n# the owner's\n")
    path.chmod(0o640)
    os.utime(path, (1, 1))
    keep(before, path)
    kept = copy(before, path)
    assert kept.read_text() == "[Unit]\n# the owner's\n"
    assert (kept.stat().st_mode & 0o777, kept.stat().st_mtime) == (0o640, 1)
    assert before.stat().st_mode & 0o777 == 0o700
    assert made(before) == []


def test_it_is_kept_once(before: Path, tmp_path: Path) -> None:
    path = tmp_path / "jail.local"
    path.write_text("first")
    keep(before, path)
    path.write_text("second")
    keep(before, path)
    assert copy(before, path).read_text() == "first"


def test_link_is_kept_as_a_link(before: Path, tmp_path: Path) -> None:
    path = tmp_path / "default"
    path.symlink_to("/nowhere")
    keep(before, path)
    assert os.readlink(copy(before, path)) == "/nowhere"  # noqa: PTH115


def test_what_was_not_there_is_noted_once(before: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.conf"
    keep(before, path)
    keep(before, path)
    path.write_text("ours, without a word that says so")
    keep(before, path)
    assert made(before) == [str(path)]
    assert not copy(before, path).exists()


@pytest.mark.parametrize("name", ["celery-pi.conf", "celery-worker.service"])
def test_what_an_older_deploy_has_made_is_not_taken_for_the_owners(
    before: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_text("# Managed by celery-pi: changes made here are undone by the next deploy.\n")
    keep(before, path)
    assert not copy(before, path).exists()


def test_what_is_cut_off_leaves_no_half_copy(before: Path, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_text("whole")
    before.mkdir()
    (before / "copying").write_text("ha")  # of a deploy that was killed
    keep(before, path)
    assert copy(before, path).read_text() == "whole"
    assert not (before / "copying").exists()
