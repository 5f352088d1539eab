"""The helpers of Redis, run for real against stand-ins for its programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from celery_pi.secrets import DIRECTORY, SOCKET
from celery_pi.sources import from_file
from tests.fake import Programs

pytestmark = pytest.mark.fast

LIBRARY = "/usr/local/lib/celery-pi"

# redis-cli of a server that knows one password, and tells which one it was asked with. It may
# take its whole input, as the real one does without a command.
CLI = r"""
printf '%s\n' "$REDISCLI_AUTH" >>"$state/tried"
[ ! -e "$state/down" ] || { echo "Could not connect to Redis at x" >&2; exit 1; }
if [ "$REDISCLI_AUTH" != "$(cat "$state/known")" ]; then
  [ -z "$REDISCLI_AUTH" ] || echo "AUTH failed: WRONGPASS invalid username-password pair" >&2
  if [ -e "$state/open" ]; then echo PONG; else printf 'NOAUTH Authentication required.\n\n'; fi
elif [ "$5" = ping ]; then echo PONG
elif [ $# -gt 4 ]; then shift 4; for word; do echo "<$word>"; done
else cat
fi
"""


class Helper:
    """redis-cli of ours, with a directory of secrets of its own."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = directory
        self.secrets = directory / "secrets"
        self.secrets.mkdir()
        self.script = directory / "helper"
        text = from_file(f"{LIBRARY}/redis-cli").content
        assert DIRECTORY in text
        self.script.write_text(text.replace(DIRECTORY, str(self.secrets)))
        self.programs = Programs(directory, monkeypatch)
        self.programs.add("redis-cli", f"state={directory}{CLI}")

    def store(self, password: str, old: str | None = None, known: str | None = None) -> None:
        """The files, and what the server knows: the password, if nothing else."""
        (self.secrets / "redis_admin_password").write_text(password)
        if old is not None:
            (self.secrets / "redis_admin_password.old").write_text(old)
        (self.state / "known").write_text(password if known is None else known)

    def run(self, *command: str, sent: str = "") -> tuple[int, str]:
        done = subprocess.run(
            ["sh", str(self.script), "admin", *command],
            input=sent,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def tried(self) -> list[str]:
        path = self.state / "tried"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    return Helper(tmp_path, monkeypatch)


def test_command_goes_by_the_socket_as_the_user_and_with_his_password(helper: Helper) -> None:
    helper.store("  s3 'cret\" ")
    assert helper.run("set", "a b", "$c") == (0, "<set>\n<a b>\n<$c>\n")
    assert helper.programs.calls() == [f"redis-cli -s {SOCKET} --user admin set a b $c"]
    assert helper.tried() == ["  s3 'cret\" "]


def test_password_stands_in_no_command_line(helper: Helper) -> None:
    helper.store("s3cret-new", "s3cret-old", known="s3cret-old")
    helper.run("ping")
    assert not [call for call in helper.programs.calls() if "s3cret" in call]


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize(
    ("known", "tried"),
    [
        ("new", ["new", "new"]),
        ("one", ["new", "one", "one"]),
        ("t w o", ["new", "one", "t w o", "t w o"]),
        ("three ", ["new", "one", "t w o", "three "]),
    ],
)
def test_while_passwords_change_the_server_is_asked_with_the_one_it_knows(
    helper: Helper, known: str, tried: list[str], ending: str
) -> None:
    helper.store("new", f"one\nt w o\nthree {ending}", known)
    assert helper.run("get", "x") == (0, "<get>\n<x>\n")
    assert helper.tried() == tried


@pytest.mark.parametrize("known", ["new", "one", "two"])
def test_commands_on_standard_input_reach_the_server_whole(helper: Helper, known: str) -> None:
    helper.store("new", "one\ntwo\n", known)
    assert helper.run(sent="acl setuser a\nacl setuser b\n") == (
        0,
        "acl setuser a\nacl setuser b\n",
    )


def test_server_that_lets_in_everybody_is_asked_as_the_user_all_the_same(helper: Helper) -> None:
    helper.store("new", "one\ntwo\n", known="one")
    (helper.state / "open").touch()  # its default user has no password
    assert helper.run("get", "x") == (0, "<get>\n<x>\n")


def test_empty_password_gives_way_to_an_old_one(helper: Helper) -> None:
    helper.store("", "one\ntwo\n", known="two")
    assert helper.run("get", "x") == (0, "<get>\n<x>\n")


def test_server_that_knows_no_password_of_ours_says_so(helper: Helper) -> None:
    helper.store("new", "one\ntwo\n", known="other")
    assert "NOAUTH" in helper.run("get", "x")[1]


def test_server_that_is_down_is_asked_no_more_than_needed(helper: Helper) -> None:
    helper.store("new", "one\ntwo\n")
    (helper.state / "down").touch()
    assert helper.run("get", "x") == (1, "")
    assert helper.tried() == ["new", "new"]


def test_user_without_a_password_is_a_failure_and_the_server_is_not_asked(helper: Helper) -> None:
    assert helper.run("get", "x")[0] != 0
    assert helper.tried() == []


# -- check-redis-config

SERVER = r"""
echo "$@" >>"$state/started"
trap 'echo stopped >>"$state/started"; exit 0' TERM
[ ! -e "$state/refusing" ] || { echo "bad directive"; exit 1; }
echo "Ready to accept connections"
while :; do sleep 0.05; done
"""


class Checker:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = directory
        Programs(directory, monkeypatch).add("redis-server", f"state={directory}{SERVER}")
        monkeypatch.setenv("TMPDIR", str(directory))
        self.before = set(os.listdir(directory))  # noqa: PTH208

    def check(self, candidate: str) -> tuple[int, str]:
        script = from_file(f"{LIBRARY}/check-redis-config").content
        done = subprocess.run(
            ["sh", "-c", script, "check", candidate], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    def started(self) -> list[str]:
        return (self.state / "started").read_text().splitlines()


@pytest.fixture
def checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checker:
    return Checker(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("candidate", "arguments"),
    [
        ("/etc/x.new/celery-pi.conf", "/etc/x.new/celery-pi.conf --port 0 "),
        ("/etc/x.new/celery-pi.acl", "--aclfile /etc/x.new/celery-pi.acl --port 0 "),
        ("/etc/x.acl/celery-pi.conf", "/etc/x.acl/celery-pi.conf --port 0 "),
    ],
)
def test_server_starts_from_the_candidate_as_what_it_is_and_touches_nothing(
    checker: Checker, candidate: str, arguments: str
) -> None:
    assert checker.check(candidate) == (0, "")
    started, stopped = checker.started()
    assert started.startswith(arguments)
    assert f"--dir {checker.state}/" in started
    assert "--appendonly no" in started
    assert stopped == "stopped"
    assert set(os.listdir(checker.state)) - checker.before == {"calls", "started"}  # noqa: PTH208


@pytest.mark.parametrize("candidate", ["/etc/x/celery-pi.conf", "/etc/x/celery-pi.acl"])
def test_candidate_that_the_server_refuses_is_refused_with_its_words(
    checker: Checker, candidate: str
) -> None:
    (checker.state / "refusing").touch()
    assert checker.check(candidate) == (
        1,
        f"redis-server refuses {candidate}:\nbad directive\n",
    )
