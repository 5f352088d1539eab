"""A run's record: there before the first change, closed at the end, and none without a change."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, cast

import pytest
from pyinfra import host, state
from pyinfra.api import Host, OperationError, StringCommand, operation

from celery_pi import fact_cache, manifest
from celery_pi.deploys import history, lock, source
from celery_pi.deploys import run as deploy_run
from celery_pi.deploys.history import DeployRecords
from celery_pi.deploys.run import CLOSE, TAKE
from celery_pi.deploys.source import NoSource, deployed_source, lay_out
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.preflight import GIVEN_SETTINGS, NEWEST_DEPLOY
from celery_pi.settings import Settings
from tests.helpers.fake import ME, Cached, Run, mode, run, sh


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the lock and the records are, on a machine that nobody deploys to."""
    monkeypatch.setattr(lock, "DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(manifest, "FILE", str(tmp_path / "etc/manifest.json"))
    monkeypatch.setattr(manifest, "LEGACY", str(tmp_path / "declared"))
    for module in (lock, history):
        monkeypatch.setattr(module, "RECORDS", str(tmp_path / "records"))
    monkeypatch.setattr(deploy_run, "deployed_source", lambda: "c0ffee")
    monkeypatch.setattr(lock, "LEASE", 4)
    return tmp_path


IGNORED = ("false", "true")


@operation()
def does(commands: Sequence[str]) -> Generator[StringCommand]:
    if not commands:
        host.noop("nothing to do")
    for command in commands:
        if command == "raise" and state.is_executing:
            raise OperationError("it cannot be done")
        yield StringCommand(command)


def deploy(
    *operations: tuple[str, ...],
    dry: bool = False,
    ends: bool = True,
    seen: str | None = None,
    **given: Any,
) -> Run:
    """A run that consists of these operations, between the first and the last of a deploy."""

    def task() -> None:
        begin(seen, **given)
        for number, commands in enumerate(operations):
            does(commands=commands, name=f"Do {number}", _ignore_errors=commands == IGNORED)
        if ends:
            deploy_run.end()

    return run(task, dry=dry)


def begin(seen: str | None = None, file: str | None = "dir/deploy.py", **given: Any) -> None:
    host.connector_data[GIVEN_SETTINGS] = Settings(**given)
    host.connector_data[NEWEST_DEPLOY] = newest() if seen is None else seen
    deploy_run.begin(file, "Thing")


def newest() -> str:
    text = 'for last in "$records"/*.json; do :; done; ls -i "$last" 2>/dev/null || true'
    lines = sh(StringCommand(f"records={history.RECORDS};", text))
    return lines[0] if lines else ""


def records() -> dict[str, dict[str, Any]]:
    fact = DeployRecords()
    return fact.process(sh(fact.command()))


def files(directory: Path) -> dict[str, Any]:
    """What the manifest says of files."""
    text = (directory / "etc/manifest.json").read_text()
    return dict(json.loads(text)["files"])


def is_free(directory: Path) -> bool:
    return not (directory / "run/beat").exists()


def test_run_that_changes_nothing_leaves_no_record_and_no_lock(directory: Path) -> None:
    assert deploy((), ()).changed == [False] * 4
    assert records() == {}
    assert not (directory / "records").exists()
    assert is_free(directory)


def test_plan_takes_no_lock(directory: Path) -> None:
    deploy(("true",), dry=True)
    assert list(directory.iterdir()) == []


def test_record_tells_what_was_deployed_and_what_it_changed(directory: Path) -> None:
    given: dict[str, Any] = {"redis_port": 7000, "celery_concurrency": 2}
    deploy(
        (),
        ("true", "true"),
        ("true",),
        **given,
        app_writable=("media",),
        redis_password_file="/root/s3cret",  # noqa: S106
    )
    (record,) = records().values()
    assert record["what"] == ["deploy.py"]
    assert record["changed"] == ["Do 1", "Do 2"]
    assert record["result"] == "completed"
    assert record["commit"] == "c0ffee"
    assert record["settings"] == {"redis_port": 7000, "app_writable": ["media"]}
    assert record["given"] == record["settings"] | {"celery_concurrency": 2}
    assert "@" in record["who"]
    assert record["started"] <= record["ended"]
    assert "s3cret" not in json.dumps(record)
    assert mode(directory / "records") == 0o700
    assert mode(directory / "records/000001.json") == 0o600


def test_record_is_there_before_the_first_command_that_changes_something(directory: Path) -> None:
    kept = directory / "kept"
    deploy((), (f"cp {directory}/records/000001.json {kept}",), (f"[ ! -e {directory}/none ]",))
    then = json.loads(kept.read_text())
    assert (then["result"], then["changed"], then["ended"]) == ("running", ["Do 1"], "")


@pytest.mark.parametrize("failure", ["false", "raise"])
def test_failed_run_says_where_and_gives_the_lock_back(directory: Path, failure: str) -> None:
    done = deploy(("true",), (failure,), ("true",))
    assert done.error
    (record,) = records().values()
    assert record["result"] == "failed: Do 1"
    assert is_free(directory)


def test_run_that_fails_before_it_changes_anything_leaves_no_record(directory: Path) -> None:
    assert deploy((), ("raise",)).error
    assert records() == {}
    assert is_free(directory)


@pytest.fixture
def another(directory: Path) -> Iterator[None]:
    """A run that holds the lock, and lives."""
    assert directory
    take, renew = lock.take("another", ""), lock.renew("another")
    holder = '{"who": "ann@desk", "since": "noon", "what": "deploy.py"}'
    subprocess.run(["sh", "-c", take.get_raw_value()], input=holder, text=True, check=True)
    loop = f"while sleep 0.3; do sh -c {quote(renew.get_raw_value())}; done"
    with subprocess.Popen(["sh", "-c", f"exec 0<&-; {loop}"]) as living:
        yield
        living.kill()


@pytest.mark.usefixtures("another")
def test_deploy_during_a_deploy_does_nothing_and_says_whose_it_is(directory: Path) -> None:
    touched = directory / "touched"
    done = deploy((), (f"touch {touched}",))
    assert done.error
    said = "@local is left as it was: ann@desk deploys to it since noon (deploy.py)"
    assert said in done.shown
    assert not touched.exists()
    assert records() == {}


@pytest.mark.parametrize("ends", [True, False])
def test_run_of_a_file_without_an_end_of_ours_is_ended_with_its_connection(
    directory: Path, ends: bool
) -> None:
    assert deploy(("true",), ends=ends).error == ""
    assert [record["result"] for record in records().values()] == ["completed"]
    assert is_free(directory)


def test_error_that_is_ignored_ends_neither_run_nor_lock(directory: Path) -> None:
    assert deploy(IGNORED, (f"test -e {directory}/run/beat",)).error == ""
    (record,) = records().values()
    assert (record["result"], record["changed"]) == ("completed", ["Do 0", "Do 1"])
    assert is_free(directory)


def test_lock_is_the_first_operation_and_the_record_the_last(directory: Path) -> None:
    done = deploy(("true",))
    assert done.names == [TAKE, "Do 0", CLOSE]
    assert done.changed == [False, True, False]
    assert is_free(directory)


def test_deploy_after_one_that_was_killed_goes_on_and_both_are_told(directory: Path) -> None:
    deploy(("true",))
    kept = (directory / "records/000001.json").read_text()
    cut_off = kept.replace('"completed"', '"running"')
    (directory / "records/000001.json").write_text(cut_off)
    subprocess.run(["sh", "-c", lock.take("dead", newest()).get_raw_value()], check=True)
    assert deploy(("true",)).error == ""
    assert [record["result"] for record in records().values()] == ["running", "completed"]


def test_deploy_that_was_planned_before_another_is_refused(directory: Path) -> None:
    before = newest()
    deploy(("true",))

    done = deploy((f"touch {directory}/touched",), seen=before)
    assert "another deploy was made since this one began; run it again" in done.shown
    assert not (directory / "touched").exists()


def test_run_that_was_taken_for_dead_stops(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "INTERVAL", 0)
    beat = directory / "run/beat"
    other = f"read -r _ at <{beat}; echo other $at >{beat}"
    done = deploy((other,), ("true",), (f"touch {directory}/touched",))
    assert "was not reached for 4 s, and another deploy has begun" in done.shown
    assert not (directory / "touched").exists()
    assert beat.read_text().startswith("other")


def test_twenty_are_kept_in_their_order() -> None:
    for _ in range(22):
        deploy(("true",))
    assert list(records()) == [f"{number:06}" for number in range(3, 23)]
    assert deploy(("true",)).error == ""
    assert list(records())[-1] == "000023"


def test_single_component_is_known_by_its_name_and_a_file_by_its_own() -> None:
    alone = deploy_run.DeployRun(cast("Host", None))
    for component in ("Rotation", "Redis", "App"):
        alone.includes(None, component)
    assert alone.what == ["Rotation"]
    whole = deploy_run.DeployRun(cast("Host", None))
    for file in ("rollback.py", "deploy.py", "deploy.py"):
        whole.includes(file, "Redis")
    assert whole.what == ["rollback.py", "deploy.py"]


def test_every_file_that_was_declared_is_named_whether_it_changed_or_not(directory: Path) -> None:
    def task() -> None:
        begin()
        group = grp.getgrgid(os.getgid()).gr_name
        for name in "ba":
            file = ConfigFile(str(directory / name), "x", user=ME, group=group)
            config_files(name=f"Configure {name}", files=[file])
        deploy_run.end()

    run(task)
    (directory / "a").unlink()
    assert run(task).changed == [False, False, True, False]
    assert [*files(directory)] == [str(directory / "a"), str(directory / "b")]
    for record in records().values():
        assert record["files"] == [
            str(directory / name) for name in ("a", "b", "etc/manifest.json")
        ]


def test_what_root_is_asked_to_run_at_the_next_deploy_is_declared_as_it_is_kept(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody would see what somebody adds to it."""
    kept = directory / "cache/facts"
    for module, name in ((fact_cache, "FILE"), (deploy_run, "FACTS")):
        monkeypatch.setattr(module, name, str(kept))

    def task() -> None:
        state.inventory.get_host("@local").connector = cached = Cached(state, host)
        cached.connect()
        begin()
        cached.run_shell_command(StringCommand("echo asked"))
        does(commands=[], name="Do nothing")
        deploy_run.end()

    for _ in range(2):
        assert run(task).changed == [False] * 3
        digest = hashlib.sha256(kept.read_bytes()).hexdigest()
        expected = {"mode": "600", "owner": "root", "group": "root", "sha256": digest}
        assert files(directory) == {str(kept): expected}
        assert mode(kept) == 0o600


def test_run_that_changes_nothing_keeps_what_it_declared_and_a_failed_one_nothing(
    directory: Path,
) -> None:
    def task() -> None:
        begin()
        file = ConfigFile(
            str(directory / "a"), "x", user=ME, group=grp.getgrgid(os.getgid()).gr_name
        )
        config_files(name="Configure", files=[file])
        does(commands=end, name="End")
        deploy_run.end()

    end: tuple[str, ...] = ("false",)
    assert run(task).error
    assert files(directory) == {}
    end = ()
    assert run(task).changed == [False] * 4
    assert files(directory)[str(directory / "a")]["mode"] == "644"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with a commit."""
    root = tmp_path / "project"
    (root / "tasks").mkdir(parents=True)
    (root / "tasks/x.py").write_text("committed\n")
    (root / "deploy.py").write_text("whole\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, *NAMED, "commit", "-qm", "First")
    return root


HOST = "@docker/pi"
NAMED = ("-c", "user.name=ann", "-c", "user.email=ann@desk")


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def everything(root: Path) -> dict[Path, bytes]:
    """All of the owner's git."""
    return {path: path.read_bytes() for path in (root / ".git").rglob("*") if path.is_file()}


def test_committed_source_is_laid_out_to_the_byte_and_git_is_only_read(
    project: Path, tmp_path: Path
) -> None:
    (project / "tasks/x.py").write_text("changed\r\n no line end")
    (project / "tasks/new.py").write_text("not known to git\n")
    (project / "tasks/new.py").chmod(0o755)
    git(project, "add", ".")
    git(project, *NAMED, "commit", "-qm", "Second")
    (project / "notes.txt").write_text("not deployed\n")
    before = everything(project)
    first, second = git(project, "rev-parse", "HEAD^"), git(project, "rev-parse", "HEAD")
    assert deployed_source(project) == second
    lay_out(second, out := tmp_path / "out", project)
    assert (out / "tasks/x.py").read_bytes() == b"changed\r\n no line end"
    assert mode(out / "tasks/new.py") & 0o100
    assert deployed_source(out) == second, "and what is deployed from there is recorded as such"
    lay_out(first, older := tmp_path / "older", project)
    assert (older / "tasks/x.py").read_text() == "committed\n"
    assert not (older / "tasks/new.py").exists()
    assert everything(project) == before


@pytest.mark.parametrize("path", ["tasks/x.py", "group_data/all.py", "packages/x/src/y.py"])
def test_source_with_changes_is_known_as_such(project: Path, path: str) -> None:
    (project / path).parent.mkdir(parents=True, exist_ok=True)
    (project / path).write_text("changed\n")
    before = everything(project)
    assert deployed_source(project) == f"{git(project, 'rev-parse', 'HEAD')}-dirty"
    assert everything(project) == before


def test_source_of_a_branch_that_is_not_checked_out_is_not_laid_out(
    project: Path, tmp_path: Path
) -> None:
    """A Pi in other hands could name one with passwords that are not for it."""
    git(project, "checkout", "-q", "-b", "other")
    (project / "tasks/x.py").write_text("password of another\n")
    git(project, *NAMED, "commit", "-qam", "Other")
    other = git(project, "rev-parse", "HEAD")
    git(project, "checkout", "-q", "-")
    with pytest.raises(NoSource, match="not in the history of what is checked out"):
        lay_out(other, tmp_path / "out", project)
    assert list((tmp_path / "out").iterdir()) == []


def test_without_git_there_is_a_reason_and_the_deploy_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoSource, match="not a git repository"):
        deployed_source(tmp_path)
    with pytest.raises(NoSource):
        lay_out("0" * 40, tmp_path / "out", source.ROOT)
    monkeypatch.setattr(deploy_run, "deployed_source", lambda: deployed_source(tmp_path))
    done = deploy(("true",))
    assert "no target of a rollback: fatal: not a git repository" in done.shown
    assert [record["commit"] for record in records().values()] == [""]


def test_deploy_of_a_changed_source_says_once_that_there_is_no_way_back_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deploy_run, "deployed_source", lambda: "c0ffee-dirty")
    done = deploy(("true",), ("true",))
    told = "no target of a rollback: its source is changed; commit it and deploy again"
    assert done.shown.count(told) == 1
    assert [record["commit"] for record in records().values()] == ["c0ffee-dirty"]


FILE = """
from pyinfra import host, state
from pyinfra.operations import server
from celery_pi.deploys import history, lock, run
from celery_pi.preflight import GIVEN_SETTINGS, NEWEST_DEPLOY
from celery_pi.settings import Settings
lock.DIRECTORY, lock.INTERVAL, lock.LEASE = {directory!r} + "/run", 0.5, 4
lock.RECORDS = history.RECORDS = {directory!r} + "/records"
run.deployed_source = lambda: "c0ffee"
host.connector_data[GIVEN_SETTINGS] = Settings()
host.connector_data[NEWEST_DEPLOY] = {newest!r}
run.begin(state.current_deploy_filename, "Thing")
server.shell(name="Work", commands=[{command!r}])
"""


def start(directory: Path, command: str, file: str) -> subprocess.Popen[str]:
    """A run of pyinfra itself, in which only greenlets run beside each other."""
    code = FILE.format(directory=str(directory), newest=newest(), command=command)
    (directory / file).write_text(code)
    return subprocess.Popen(
        [source.ROOT / ".venv/bin/pyinfra", "-y", "@local", file],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(source.ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_run_lives_as_long_as_its_longest_command_and_no_longer_than_itself(
    directory: Path,
) -> None:
    reached = directory / "reached"
    first = start(directory, f"touch {reached}; sleep 60", "deploy.py")
    try:
        deadline = time.monotonic() + 60
        while not reached.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(6)  # longer than the lease
        refused = start(directory, "true", "second.py").communicate(timeout=60)[0]
        assert "(deploy.py); try again when that has ended" in refused
        assert "Traceback" not in refused
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    last = start(directory, "true", "third.py")
    assert "Success" in last.communicate(timeout=60)[0]
    assert [record["result"] for record in records().values()] == ["running", "completed"]
    assert is_free(directory)
