"""The lock: one holder, refused with a sentence, and never held by the dead."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from pyinfra.api import StringCommand

from celery_pi.deploys import lock
from celery_pi.deploys.lock import give_back, refusal, renew, take
from tests.helpers.fake import mode

HOLDER = json.dumps({"who": "ann@desk", "since": "noon", "what": "deploy.py"})


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(lock, "RECORDS", str(tmp_path / "records"))
    monkeypatch.setattr(lock, "LEASE", 4)
    return tmp_path


def start(command: StringCommand, sent: str = HOLDER) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        ["sh", "-c", command.get_raw_value()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin
    if sent:
        process.stdin.write(sent)
        process.stdin.close()
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    text = process.stdout.read()
    assert process.wait(10) == 0
    return text.strip()


def say(command: StringCommand) -> str:
    return said(start(command, HOLDER if "sent=$(cat)" in command.get_raw_value() else ""))


def age(directory: Path, seconds: int) -> None:
    """Let that time pass since the last sign of life."""
    beat = directory / "run/beat"
    token, at = beat.read_text().split()
    beat.write_text(f"{token} {int(at) - seconds}\n")


def test_lock_is_free_again_when_it_is_given_back(directory: Path) -> None:
    for token in ("one", "two"):
        assert say(take(token, "")) == "taken"
        assert say(give_back(token)) == ""
    assert [path.name for path in (directory / "run").iterdir()] == ["lock"]
    assert mode(directory / "run") == 0o700


def test_holder_that_lives_is_named_and_left_alone(directory: Path) -> None:
    assert say(take("one", "")) == "taken"
    other = start(take("two", ""), '{"who": "bob@den"}')
    while other.poll() is None:
        assert say(renew("one")) == ""
    assert said(other) == f"held {HOLDER}"
    assert (directory / "run/holder").read_text().strip() == HOLDER
    assert say(renew("one")) == ""


def test_dead_holder_is_waited_for_no_longer_than_its_lease(directory: Path) -> None:
    assert say(take("one", "")) == "taken"
    assert say(take("two", "")) == "taken"
    age(directory, 4)
    assert say(take("three", "")) == "taken"


def test_holder_of_an_earlier_start_of_the_machine_is_dead(directory: Path) -> None:
    assert say(take("one", "")) == "taken"
    age(directory, -10_000)
    assert say(take("two", "")) == "taken"


def test_one_of_many_that_come_at_once_gets_it() -> None:
    assert say(take("dead", "")) == "taken"
    comers = [start(take(str(number), "")) for number in range(5)]
    while any(comer.poll() is None for comer in comers):
        for number in range(5):
            say(renew(str(number)))
    assert sorted(said(comer).split()[0] for comer in comers) == ["held"] * 4 + ["taken"]


def test_who_was_taken_for_dead_is_told_and_takes_nothing_back(directory: Path) -> None:
    assert say(take("one", "")) == "taken"
    age(directory, 4)
    assert say(take("two", "")) == "taken"
    assert say(renew("one")) == "lost"
    assert say(give_back("one")) == ""
    assert (directory / "run/beat").read_text().split()[0] == "two"


def test_sign_of_life_after_the_end_brings_no_lock_back(directory: Path) -> None:
    assert say(take("one", "")) == "taken"
    assert say(give_back("one")) == ""
    assert say(renew("one")) == "lost"
    assert not (directory / "run/beat").exists()


def test_run_that_was_planned_before_another_ended_is_refused(directory: Path) -> None:
    records = directory / "records"
    records.mkdir()
    assert say(take("one", "")) == "taken"
    say(give_back("one"))
    (records / "000001.json").write_text("{}")
    assert say(take("two", "")) == "overtaken"
    assert say(take("two", newest(records))) == "taken"


def test_run_that_waited_while_another_changed_something_is_refused(directory: Path) -> None:
    records = directory / "records"
    records.mkdir()
    assert say(take("one", "")) == "taken"
    waiting = start(take("two", ""))
    time.sleep(1.5)
    assert waiting.poll() is None
    (records / "000001.json").write_text("{}")
    assert say(give_back("one")) == ""
    assert said(waiting) == "overtaken"
    assert say(take("three", newest(records))) == "taken", "who was refused holds nothing"


def newest(records: Path) -> str:
    (record,) = records.iterdir()
    return f"{record.stat().st_ino} {record}"


@pytest.mark.parametrize(
    ("printed", "sentence"),
    [
        ("taken", ""),
        ("", ""),
        (f"held {HOLDER}", "ann@desk deploys to it since noon (deploy.py)"),
        ("overtaken", "another deploy was made since this one began"),
    ],
)
def test_refusal_is_one_sentence(printed: str, sentence: str) -> None:
    told = refusal(printed, "pi")
    assert sentence in told
    assert bool(told) == bool(sentence)
    assert "\n" not in told
