"""Where a rollback goes, what it runs, and what it takes away first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from celery_pi.deploys import history, rollback
from celery_pi.deploys.history import Record
from celery_pi.deploys.rollback import CannotGoBack, data_arguments, go_back, target
from celery_pi.deploys.source import NoSource, lay_out
from celery_pi.operations import prune_files as pruning
from celery_pi.operations import remove_units
from celery_pi.operations.prune_files import prune_files
from celery_pi.render import ROOT
from celery_pi.settings import Settings, load_settings
from tests.helpers.fake import Programs, Run, run


def record(**more: Any) -> Record:
    whole = {"result": "completed", "what": ["deploy.py"], "commit": "c0ffee"}
    fixed = {"who": "ann@desk", "started": "noon", "settings": {}, "given": {}}
    return Record(**{**fixed, **whole, **more})


def records(*more: dict[str, Any]) -> dict[str, Record]:
    return {f"{number:06}": record(**each) for number, each in enumerate(more, 1)}


WHOLE: dict[str, Any] = {}
FAILED = {"result": "failed: Redis | Run"}
CUT_OFF = {"result": "running"}
ALONE = {"what": ["Redis"]}
DIRTY = {"commit": "c0ffee-dirty"}
BACK = {"what": ["rollback.py", "deploy.py"]}


@pytest.mark.parametrize(
    ("known", "number"),
    [
        ((WHOLE, WHOLE), "000001"),
        ((WHOLE, WHOLE, WHOLE), "000002"),
        ((WHOLE, FAILED), "000001"),
        ((WHOLE, CUT_OFF), "000001"),
        ((WHOLE, FAILED, WHOLE), "000001"),
        ((WHOLE, ALONE), "000001"),
        ((WHOLE, ALONE, WHOLE), "000001"),
        ((WHOLE, WHOLE, BACK), "000002"),
        ((WHOLE, BACK, WHOLE), "000002"),
    ],
)
def test_way_back_is_to_the_last_whole_deploy_before_the_newest(
    known: tuple[dict[str, Any], ...], number: str
) -> None:
    assert target(records(*known), None) == number


@pytest.mark.parametrize(
    ("known", "to", "said"),
    [
        ((), None, "knows of no whole deploy before the newest"),
        ((WHOLE,), None, "knows of no whole deploy before the newest"),
        ((FAILED, WHOLE), None, "knows of no whole deploy before the newest"),
        ((WHOLE, WHOLE), 3, "there is no deploy 3"),
        ((WHOLE, FAILED), 2, "deploy 2 was not of all components, or did not end well"),
        ((ALONE, WHOLE), 1, "deploy 1 was not of all components"),
        (({"commit": ""}, WHOLE), None, "the source of deploy 1 was not in git; no deploy before"),
        (
            (WHOLE, DIRTY, WHOLE),
            None,
            "deploy 2 had changes that were not committed; .* TO=1 goes back",
        ),
        ((WHOLE, DIRTY, WHOLE), 2, "had changes that were not committed; .* TO=1 goes back"),
    ],
)
def test_where_there_is_no_way_back_the_reason_is_told(
    known: tuple[dict[str, Any], ...], to: int | None, said: str
) -> None:
    with pytest.raises(CannotGoBack, match=said):
        target(records(*known), to)


def test_deploy_can_be_chosen() -> None:
    assert target(records(WHOLE, WHOLE, WHOLE), 1) == "000001"


def test_settings_are_read_as_they_were_given() -> None:
    data: dict[str, Any] = {
        "redis_port": 7000,
        "redis_tls": True,
        "app_units": ["a.service"],
        "app_writable": ["media", "1"],
        "redis_maxmemory": "25%",
        "updates_time": "04:00",
        "updates_reboot": None,
        "redis_key_prefix": "1.10:",
    }
    first, _ = load_settings(data)
    assert first
    kept = json.loads(history.begun([], first).text)["given"]
    words = data_arguments(kept)
    assert words[::2] == ["--data"] * len(data)
    again = dict(word.split("=", 1) for word in words[1::2])
    # In a process of its own: the import replaces this one's sockets and threads by gevent's.
    read = "{key: parse_cli_arg(text) for key, text in json.load(sys.stdin).items()}"
    code = (
        f"import json, sys; from pyinfra_cli.util import parse_cli_arg; print(json.dumps({read}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(again),
        capture_output=True,
        text=True,
        check=True,
    )
    assert load_settings(json.loads(done.stdout))[0] == first


@pytest.mark.parametrize(
    "name", ["ssh_hostname", "_sudo_user", "x", *sorted(Settings.local_files())]
)
def test_record_can_lead_to_no_other_machine_and_to_no_file_here(name: str) -> None:
    with pytest.raises(CannotGoBack, match=f"its setting {name} is none"):
        data_arguments({"redis_port": 7000, name: "/root/.ssh/id_ed25519"})


@pytest.mark.parametrize("commit", ["--output=written", "0" * 40, "", "HEAD:celery_pi"])
def test_what_is_no_commit_is_not_laid_out(tmp_path: Path, commit: str) -> None:
    with pytest.raises(NoSource):
        lay_out(commit, tmp_path / "out")
    assert list((tmp_path / "out").glob("*")) == []
    assert not (ROOT / "written").exists()


def stand_in(tmp_path: Path, script: str) -> tuple[str, ...]:
    program = tmp_path / "pyinfra.py"
    program.write_text(script)
    return (sys.executable, str(program))


NOTE = """
import os, sys, pathlib
if "debug-inventory" in sys.argv:
    print('[{"name": "pi"}]')
    sys.exit()
log = pathlib.Path(sys.argv[0]).with_name("log").open("a")
print(os.environ["CELERY_PI_ROLLBACK_TO"], *sys.argv[1:], sorted(os.listdir("."))[:1], file=log)
sys.exit("--dry" in sys.argv and "redis_port=80" in sys.argv)
"""


@pytest.mark.parametrize(("port", "status", "runs"), [(7000, 0, 2), (80, 1, 1)])
def test_plan_comes_first_and_refused_it_is_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int, status: int, runs: int
) -> None:
    def lay_out(commit: str, directory: Path) -> None:
        (directory / commit).touch()

    monkeypatch.setattr(rollback, "lay_out", lay_out)
    monkeypatch.setattr(rollback, "PYINFRA", stand_in(tmp_path, NOTE))
    (tmp_path / "out").mkdir()
    asked = record(given={"redis_port": port})
    assert go_back("000007", asked, "pi", tmp_path / "out") == status
    words = f"000007 --data redis_port={port} inventory.py rollback.py deploy.py"
    expected = [f"{words} {how} ['c0ffee']" for how in ("--dry", "-y")]
    assert (tmp_path / "log").read_text().splitlines() == expected[:runs]


def test_source_that_is_elsewhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotGoBack, match="which ann@desk made"):
        go_back("000007", record(commit="0" * 40), "pi", tmp_path)


@pytest.mark.parametrize("hosts", ["[]", '[{"name": "nas"}]', '[{"name": "pi"}, {"name": "nas"}]'])
def test_source_that_would_lead_to_another_machine_is_not_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: str
) -> None:
    """A Pi may name any source that is kept, also one with another inventory."""
    monkeypatch.setattr(rollback, "lay_out", lambda *_: None)
    script = f"import sys; print({hosts!r}); assert 'debug-inventory' in sys.argv"
    monkeypatch.setattr(rollback, "PYINFRA", stand_in(tmp_path, script))
    with pytest.raises(CannotGoBack, match="and not pi alone"):
        go_back("000007", record(), "pi", tmp_path)


TELLS = """
import pathlib, sys
print(pathlib.Path(sys.argv[0]).with_name("told").read_text())
"""


def told_by_a_pi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str = "000001", **more: Any
) -> dict[str, Record]:
    known = {number: {**vars(record(commit="c0ffee0")), **more}}
    (tmp_path / "told").write_text(json.dumps({rollback.FACT: {"pi": known}}))
    monkeypatch.setattr(rollback, "PYINFRA", stand_in(tmp_path, TELLS))
    host, found = rollback.read_records()
    assert host == "pi"
    return found


def test_record_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told_by_a_pi(tmp_path, monkeypatch, commit="c0ffee0-dirty", newer="x")
    assert found == {"000001": record(commit="c0ffee0-dirty")}
    assert told_by_a_pi(tmp_path, monkeypatch, commit="")["000001"].commit == ""


def test_record_of_an_earlier_version_is_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It named a tree beside the commit."""
    assert told_by_a_pi(tmp_path, monkeypatch, tree="0" * 40) == {
        "000001": record(commit="c0ffee0")
    }


@pytest.mark.parametrize(
    "told",
    [
        {"number": "1"},
        {"number": "000001\x1b]0;x\x07"},
        {"commit": "0" * 40 + ":group_data"},
        {"commit": "HEAD"},
        {"commit": ["x"]},
        {"commit": "--output=x"},
        {"given": [["redis_port", 1]]},
        {"given": {"app_dir": "x" * 2**17}},
        {"what": "deploy.py"},
        {"files": None},
        {"started": 7},
    ],
)
def test_what_is_no_record_of_ours_is_not_gone_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]
) -> None:
    with pytest.raises(CannotGoBack, match="is no record of ours"):
        told_by_a_pi(tmp_path, monkeypatch, **told)


def test_who_deployed_cannot_write_to_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "ann\x1b]0;x\x07\r\u202e\x9b"
    monkeypatch.setattr(sys, "argv", ["rollback", "--to", "1"])
    told_by_a_pi(tmp_path, monkeypatch, who=evil)
    assert rollback.main() == 1
    said = capsys.readouterr().err
    assert "which ann\\x1b]0;x\\x07\\r\\u202e\\x9b made" in said


class Pi:
    """A machine with these records, and notes of what its units were started with."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.started = directory, directory / "started"
        self.started.mkdir()
        (directory / "records").mkdir()
        monkeypatch.setattr(history, "RECORDS", str(directory / "records"))
        for module in (remove_units, pruning):
            monkeypatch.setattr(module, "RECORDS", str(self.started))
        self.programs = Programs(directory, monkeypatch)
        self.programs.add("systemctl", "case $1 in show) echo LoadState=not-found ;; esac")

    def file(self, name: str) -> str:
        (self.root / name).write_text("# Managed by celery-pi.\n")
        return str(self.root / name)

    def knows(self, *files: list[str]) -> None:
        for number, paths in enumerate(files, 1):
            text = record(files=paths).text
            (self.root / f"records/{number:06}.json").write_text(text)

    def note(self, unit: str, *paths: str) -> Path:
        lines = [f"time 1 {path}\nd1gest  {path}\n" for path in paths]
        (self.started / unit).write_text("".join(lines))
        return self.started / unit

    def go_back(self, to: str = "000001", dry: bool = False) -> Run:
        return run(lambda: prune_files(name="Remove", to=to), dry=dry)


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pi:
    return Pi(tmp_path, monkeypatch)


def test_files_of_later_deploys_go_and_all_others_stay(pi: Pi) -> None:
    kept, second, third, stranger = (pi.file(name) for name in ("kept", "second", "third", "other"))
    pi.knows([kept], [kept, second], [kept, second, third])
    assert pi.go_back("000002").changed == [True]
    assert [Path(path).exists() for path in (kept, second, third)] == [True, True, False]
    assert pi.go_back().changed == [True]
    assert [Path(path).exists() for path in (kept, second, stranger)] == [True, False, True]
    assert pi.go_back().changed == [False]


def test_bytecode_of_a_module_of_a_later_deploy_goes_with_it(pi: Pi) -> None:
    """The audit would take it for a file that nobody has deployed."""
    (pi.root / "__pycache__").mkdir()
    kept, later = pi.file("kept.py"), pi.file("later.py")
    compiled = [pi.file(f"__pycache__/{name}.cpython-313.pyc") for name in ("kept", "later")]
    pi.knows([kept], [kept, later])
    pi.go_back()
    assert [Path(path).exists() for path in (later, *compiled)] == [False, True, False]


def test_plan_removes_nothing(pi: Pi) -> None:
    later = pi.file("later")
    pi.knows([], [later])
    assert pi.go_back(dry=True).planned == [True]
    assert Path(later).exists()


def test_unit_that_was_started_with_such_a_file_is_to_be_started_again(pi: Pi) -> None:
    later, longer = pi.file("later"), pi.file("later.conf")
    pi.knows([longer], [longer, later])
    ours, others = pi.note("a.service", longer, later), pi.note("b.service", longer)
    before = others.read_text()
    pi.go_back()
    assert ours.read_text() == ""
    assert others.read_text() == before


def test_unit_of_a_later_deploy_is_stopped(pi: Pi) -> None:
    pi.programs.add("systemctl", "case $1 in show) echo LoadState=loaded ;; esac")
    unit = "celery-pi-no-such.timer"
    pi.knows([], [f"/etc/systemd/system/{unit}"])
    pi.go_back()
    assert f"systemctl disable --quiet --now {unit}" in pi.programs.calls()


def test_deploy_that_is_no_longer_known_is_refused(pi: Pi) -> None:
    later = pi.file("later")
    pi.knows([], [later])
    with pytest.raises(Exception, match="there is no deploy 000009"):
        pi.go_back("000009")
    assert Path(later).exists()


def test_given_setting_may_be_the_default() -> None:
    kept = json.loads(history.begun([], Settings(redis_port=6379)).text)
    assert (kept["settings"], kept["given"]) == ({}, {"redis_port": 6379})
