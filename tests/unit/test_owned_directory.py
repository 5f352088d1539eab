"""A directory of the app's: it is there and the app's, and root is led nowhere else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyinfra.api.exceptions import OperationError

from celery_pi.operations import owned_directory as module
from celery_pi.operations.owned_directory import DirectoryOwners, owned_directory
from tests.helpers.fake import Run, as_root, mode, run

pytestmark = as_root


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A directory that belongs to the unprivileged user daemon, and that he can reach."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        (path / "app").mkdir()
        os.chown(path / "app", 1, 1)
        (path / "roots").mkdir(0o700)
        yield path / "app"
        shown = (path / "roots").stat()
        assert (shown.st_uid, shown.st_gid, mode(path / "roots")) == (0, 0, 0o700)


def deploy(path: Path) -> Run:
    return run(lambda: owned_directory(name="Make it", path=str(path), user="nobody", group="root"))


def test_it_is_made_in_a_directory_of_anothers(theirs: Path) -> None:
    done = deploy(theirs / "logs")
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    made = theirs / "logs"
    assert (made.owner(), made.group(), mode(made)) == ("nobody", "root", 0o755)
    assert deploy(made).changed == [False]


def test_those_above_it_are_made_with_it(theirs: Path) -> None:
    assert deploy(theirs / "var/data/logs").error == ""
    assert (theirs / "var/data/logs").owner() == "nobody"


@pytest.mark.parametrize("owner", [1, 65534])
def test_owner_is_mended_and_the_mode_stays(theirs: Path, owner: int) -> None:
    logs = theirs / "logs"
    logs.mkdir(0o2770)
    logs.chmod(0o2770)
    os.chown(logs, owner, 1)
    assert deploy(logs).changed == [True]
    assert (logs.owner(), logs.group(), mode(logs)) == ("nobody", "root", 0o2770)
    assert deploy(logs).changed == [False]


@pytest.mark.parametrize("what", ["link", "file", "fifo", "link above"])
def test_what_is_something_else_is_refused_with_a_sentence(theirs: Path, what: str) -> None:
    path = theirs / "logs"
    if what == "link":
        path.symlink_to(theirs.parent / "roots")
    elif what == "file":
        path.write_text("root's\n")
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "link above":
        path.symlink_to(theirs.parent / "roots")
        path = path / "logs"
    before = path.lstat() if what != "link above" else None
    done = deploy(path)
    assert done.error
    assert f"celery-pi: {path}" in done.shown
    assert not before or path.lstat() == before


def test_directory_of_roots_with_something_in_it_is_not_given_and_the_plan_says_so(
    theirs: Path,
) -> None:
    """Daemon has given root's dumps the name of the app's media."""
    (theirs / "dumps").mkdir(0o700)
    (theirs / "dumps/monday.sql").write_text("root's")
    (theirs / "dumps").rename(theirs / "media")
    with pytest.raises(OperationError, match=f"{theirs}/media is root's, and daemon may have put"):
        deploy(theirs / "media")
    assert ((theirs / "media").owner(), mode(theirs / "media")) == ("root", 0o700)


def test_directory_of_roots_that_others_may_write_is_not_given(theirs: Path) -> None:
    """Another may have moved it there."""
    (theirs / "logs").mkdir()
    (theirs / "logs").chmod(0o775)
    with pytest.raises(OperationError, match=f"{theirs}/logs is root's"):
        deploy(theirs / "logs")
    assert (theirs / "logs").owner() == "root"


def test_directory_for_a_user_who_is_yet_to_be_made_is_planned(theirs: Path) -> None:
    (theirs / "logs").mkdir()
    path = str(theirs / "logs")
    give = lambda: owned_directory(name="Give", path=path, user="of-the-test", group="root")  # noqa: E731
    assert run(give, dry=True).planned == [True]


def test_empty_directory_of_roots_is_given(theirs: Path) -> None:
    (theirs / "media").mkdir(0o755)
    assert deploy(theirs / "media").changed == [True]
    assert (theirs / "media").owner() == "nobody"


def test_link_that_takes_its_place_at_the_last_moment_is_not_followed(
    theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race, by a hook: the fact has seen a directory."""
    (theirs / "logs").mkdir()
    ask = DirectoryOwners.process

    def swap(fact: DirectoryOwners, output: list[str]) -> str:
        if (theirs / "logs").is_dir() and not (theirs / "logs").is_symlink():
            (theirs / "logs").rmdir()
            (theirs / "logs").symlink_to(theirs.parent / "roots")
        return ask(fact, output)

    monkeypatch.setattr(module.DirectoryOwners, "process", swap)
    with pytest.raises(OperationError, match=f"{theirs}/logs is a link"):
        deploy(theirs / "logs")
