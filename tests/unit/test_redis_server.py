"""The running Redis is changed to what the files say, and restarted only where it must be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pyinfra import host

from celery_pi.operations import redis_server as module
from celery_pi.operations.config_files import ConfigFile
from celery_pi.operations.redis_server import (
    UNIT,
    RedisServer,
    Server,
    directives,
    ready,
    redis_server,
)
from celery_pi.shell import announce_restart, announce_write
from tests.helpers.fake import Programs, Run, run

# Redis, as far as the operation knows it: a file for each setting and user of the running server,
# and one of its name for each fault. Like redis-cli it ends an error with an empty line, and with
# status 0.
REDIS = r"""
set -f
error() { printf '%s\n\n' "$*"; }
set_user() {
  name=$1; shift
  while [ "$1" = reset ]; do : >"users/$name"; shift; done
  [ ! -s "users/$name" ] || set -- "$(cat "users/$name")" "$@"
  echo "$@" >"users/$name"
}
set_config() {
  while [ $# -gt 0 ]; do [ -e "stubborn-$1" ] || printf '%s' "$2" >"config/$1"; shift 2; done
}
reply() {
  case "$1 $2" in
    "acl whoami") echo admin ;;
    "acl users") ls users ;;
    "acl list") for u in $(ls users); do echo "user $u $(cat "users/$u")"; done ;;
    "acl setuser") [ ! -e refusing ] || { error ERR syntax; return; }
      shift 2; set_user "$@"; echo OK ;;
    "acl deluser") rm "users/$3"; echo 1 ;;
    "config get") [ ! -e noperm ] || { error NOPERM no config; return; }
      shift 2; for n in "$@"; do echo "$n"; cat "config/$n"; echo; done ;;
    "config set") [ ! -e refusing ] || { error ERR CONFIG SET failed; return; }
      shift 2; set_config "$@"; echo OK ;;
    *) error ERR unknown command "$1" ;;
  esac
}
shift
if [ -e down ]; then error "Could not connect to Redis"
elif [ -e stranger ]; then error NOAUTH Authentication required.
elif [ $# -gt 0 ]; then reply "$@"
else while read -r line; do reply $line; done
fi
"""

ACL = """\
user default reset off
user celery on #aaa #bbb ~* &* +@all
user admin on #ccc ~* &* +@all
"""
LIVE = """\
# A comment, and words behind it

appendonly yes
save 900 1 300 10
maxmemory 100
loglevel notice
"""
SETTINGS = {"appendonly": "yes", "save": "900 1 300 10", "maxmemory": "100", "loglevel": "notice"}


class Pi:
    """A running server that goes by both files."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = directory / "state"
        for folder in ("users", "config"):
            (self.state / folder).mkdir(parents=True)
        self.live = directory / "live.conf"
        self.acl = directory / "some users.acl"
        self.record = directory / "records" / "redis-acl"
        self.programs = Programs(directory, monkeypatch)
        self.programs.add("cli", f"cd {self.state}{REDIS}")
        self.programs.add("systemctl", f"cd {self.state}\n{self.systemctl()}")
        path = "/usr/local/lib/celery-pi/redis-cli"
        assert path in module.CLI
        cli = str(self.programs.bin / "cli")
        monkeypatch.setattr(module, "CLI", module.CLI.replace(path, cli))
        monkeypatch.setattr(module, "RECORD", str(self.record))
        monkeypatch.setenv("TMPDIR", str(directory))
        self.live.write_text(LIVE)
        self.acl.write_text(ACL)
        (self.state / "active").write_text("active\n")
        for name, value in SETTINGS.items():
            (self.state / "config" / name).write_text(value)
        self.start()

    def systemctl(self) -> str:
        return f"""
case $1 in
  is-active) cat active ;;
  restart) [ ! -e broken ] || exit 1
    rm -f down stranger users/*
    while read -r _ name rules; do echo "${{rules#reset }}" >"users/$name"; done <'{self.acl}'
    echo active >active ;;
esac
"""

    def start(self) -> None:
        """As service() starts it."""
        file = ConfigFile(str(self.acl), "")
        script = f"set -e; systemctl restart x; ({ready(file)})"
        subprocess.run(["sh", "-c", script.replace(f"={self.acl}", f"='{self.acl}'")], check=True)
        self.programs.calls()

    def operation(self) -> object:
        live = ConfigFile(str(self.live), self.live.read_text())
        return redis_server(name="Change", settings=live, acl=ConfigFile(str(self.acl), ACL))

    def deploy(self) -> Run:
        self.programs.calls()
        return run(self.operation)

    def plan(self) -> Run:
        return run(self.operation, dry=True)

    def fault(self, *names: str) -> None:
        for name in names:
            (self.state / name).touch()

    def users(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.state / "users").iterdir()}

    def config(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.state / "config").iterdir()}

    def changes(self) -> list[str]:
        """What was done to the server; what it was asked is left out."""
        asked = ("config get", "acl whoami", "acl list", "acl users", "is-active")
        return [call for call in self.programs.calls() if not any(ask in call for ask in asked)]


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pi:
    return Pi(tmp_path, monkeypatch)


DECLARED = {
    "default": "off\n",
    "celery": "on #aaa #bbb ~* &* +@all\n",
    "admin": "on #ccc ~* &* +@all\n",
}


def settled(pi: Pi) -> bool:
    """Whether the server goes by both files, and the next deploy sees it."""
    return (pi.users(), pi.plan().planned) == (DECLARED, [False])


def test_server_that_goes_by_both_files_is_left_alone(pi: Pi) -> None:
    done = pi.deploy()
    assert (done.planned, done.changed, done.error) == ([False], [False], "")
    assert "the running server goes by both files" in done.shown
    assert pi.changes() == []


def later_file(pi: Pi) -> None:
    pi.acl.write_text(ACL + "\n")


def by_hand(pi: Pi) -> None:
    (pi.state / "users" / "celery").write_text("on nopass ~* &* +@all\n")


def stranger(pi: Pi) -> None:
    (pi.state / "users" / "mallory").write_text("on nopass ~* &* +@all\n")


USER_DRIFTS: dict[str, Callable[[Pi], object]] = {
    "file changed": later_file,
    "user changed by hand": by_hand,
    "user added by hand": stranger,
    "user removed by hand": lambda pi: (pi.state / "users/celery").unlink(),
    "no record": lambda pi: pi.record.unlink(),
}


@pytest.mark.parametrize("drift", USER_DRIFTS.values(), ids=list(USER_DRIFTS))
def test_users_that_differ_are_set_without_a_restart(pi: Pi, drift: Callable[[Pi], object]) -> None:
    drift(pi)
    assert pi.plan().planned == [True]
    done = pi.deploy()
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert "Will set the users without a restart" in done.shown
    assert "Will set maxmemory" not in done.shown
    assert pi.changes() == ["cli admin"]  # what to do goes by standard input
    assert settled(pi)


def test_user_is_set_as_a_whole_and_in_one_step(pi: Pi, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger(pi)
    pi.acl.write_text("# no user\n\nuser celery on #new ~a?* (+get ~b)\n user admin on #ccc\n")
    sent = pi.state / "sent"
    cli = pi.programs.bin / "cli"
    cli.write_text(cli.read_text().replace("while read -r", f"tee {sent} | while read -r"))
    monkeypatch.setattr(module, "RECORD_USERS", "")
    pi.deploy()
    # The file is also that of which Redis itself says whether it is well-formed.
    assert sorted(sent.read_text().splitlines()) == [
        "acl deluser default",
        "acl deluser mallory",
        "acl setuser admin reset on #ccc",
        "acl setuser celery reset on #new ~a?* (+get ~b)",
    ]


def test_server_that_knows_other_flags_after_a_restart_knows_the_same_users(pi: Pi) -> None:
    # ACL SETUSER reset leaves `sanitize-payload` in ACL LIST, and a start from the file does not.
    for name, rules in DECLARED.items():
        first, _, rest = rules.partition(" ")
        (pi.state / "users" / name).write_text(f"{first.strip()} sanitize-payload {rest}".strip())
    assert pi.plan().planned == [False]
    for name in DECLARED:
        path = pi.state / "users" / name
        path.write_text(path.read_text().replace("sanitize", "skip-sanitize"))
    assert pi.plan().planned == [True]


def test_settings_that_differ_are_set_and_no_other(pi: Pi) -> None:
    (pi.state / "config/save").write_text("")
    (pi.state / "config/maxmemory").write_text("7")
    done = pi.deploy()
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert "Will set save 900 1 300 10 without a restart" in done.shown
    assert "Will set maxmemory 100 without a restart" in done.shown
    assert "the users" not in done.shown
    assert pi.changes() == ["cli admin config set save 900 1 300 10 maxmemory 100"]
    assert pi.config() == SETTINGS
    assert settled(pi)


def test_value_reaches_the_server_as_it_stands_in_the_file(pi: Pi) -> None:
    wild = "a  \"b\" 'c' $(id) `id` $HOME * \\n ;#&"
    pi.live.write_text(f"maxmemory {wild}\n")
    assert pi.deploy().error == ""
    assert pi.config()["maxmemory"] == wild


def test_users_and_settings_change_in_one_command(pi: Pi) -> None:
    by_hand(pi)
    (pi.state / "config/loglevel").write_text("debug")
    assert pi.deploy().changed == [True]
    assert pi.changes() == ["cli admin", "cli admin config set loglevel notice"]
    assert settled(pi)
    assert pi.config() == SETTINGS


@pytest.mark.parametrize("name", ["save", "maxmemory", "loglevel"])
def test_setting_that_the_server_does_not_take_fails_the_deploy(pi: Pi, name: str) -> None:
    for setting in SETTINGS:
        (pi.state / "config" / setting).write_text("7 8")
    pi.fault(f"stubborn-{name}")
    done = pi.deploy()
    assert done.error
    assert f"Redis keeps {name} at 7 8 and does not take {SETTINGS[name]}" in done.shown


@pytest.mark.parametrize("drift", ["users", "settings"])
def test_refusal_of_the_server_is_told_and_nothing_is_recorded(pi: Pi, drift: str) -> None:
    recorded = pi.record.read_text()
    if drift == "users":
        by_hand(pi)
    else:
        (pi.state / "config/maxmemory").write_text("7")
    pi.fault("refusing")
    done = pi.deploy()
    assert done.error
    assert ("ERR syntax" if drift == "users" else "ERR CONFIG SET failed") in done.shown
    assert pi.record.read_text() == recorded
    assert pi.plan().planned == [True]


def test_nothing_is_left_behind_where_passwords_hashes_were_written(pi: Pi, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    by_hand(pi)
    pi.deploy()
    pi.fault("refusing")
    by_hand(pi)
    pi.deploy()
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "calls"}


UNREACHABLE: dict[str, Callable[[Pi], object]] = {
    "it takes no password of ours": lambda pi: pi.fault("stranger"),
    "it does not listen": lambda pi: pi.fault("down"),
    "it was stopped": lambda pi: (pi.state / "active").write_text("inactive\n"),
}


@pytest.mark.parametrize("why", UNREACHABLE.values(), ids=list(UNREACHABLE))
def test_server_that_does_not_take_our_password_is_started_again(
    pi: Pi, why: Callable[[Pi], object]
) -> None:
    why(pi)
    pi.record.unlink()
    done = pi.deploy()
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert f"Will restart {UNIT}: it does not take our password" in done.shown
    assert pi.changes() == [f"systemctl restart {UNIT}"]
    assert settled(pi)


def test_start_that_fails_fails_the_deploy_even_if_somebody_answers(pi: Pi) -> None:
    (pi.state / "active").write_text("inactive\n")
    pi.fault("broken")
    assert pi.deploy().error


def test_start_that_fails_or_helps_nothing_fails_the_deploy(pi: Pi) -> None:
    pi.fault("stranger", "broken")
    assert pi.deploy().error
    (pi.state / "broken").unlink()
    systemctl = pi.programs.bin / "systemctl"
    systemctl.write_text(systemctl.read_text().replace("stranger", ""))
    recorded = pi.record.read_text()
    done = pi.deploy()
    assert done.error
    assert f"{UNIT} does not take our password" in done.shown
    assert pi.record.read_text() == recorded


def test_without_its_list_of_users_the_server_is_not_asked(pi: Pi) -> None:
    pi.acl.unlink()
    fact = run(lambda: host.get_fact(RedisServer, acl=str(pi.acl), names="save"), dry=True)
    assert fact.error == ""
    assert pi.programs.calls() == [f"systemctl is-active {UNIT}"]


def test_restart_that_is_planned_does_it_all(pi: Pi) -> None:
    by_hand(pi)

    def task() -> None:
        announce_restart(host, UNIT)
        pi.operation()

    plan = run(task, dry=True)
    assert plan.planned == [False]
    assert "the server will be started with them" in plan.shown
    # Where it then was not started after all, the users are set all the same.
    assert run(task).changed == [True]
    assert settled(pi)


def test_restart_of_another_unit_does_nothing_for_the_server(pi: Pi) -> None:
    by_hand(pi)

    def task() -> None:
        announce_restart(host, "celery-worker.service")
        pi.operation()

    assert run(task, dry=True).planned == [True]


def test_write_of_the_list_that_is_planned_is_a_change_of_users_too(pi: Pi) -> None:
    def task() -> None:
        announce_write(host, str(pi.acl))
        pi.operation()

    plan = run(task, dry=True)
    assert plan.planned == [True]
    assert "Will set the users without a restart" in plan.shown
    assert run(task).changed == [False]


def test_no_hash_shows_in_any_command_or_output(pi: Pi) -> None:
    by_hand(pi)
    done = pi.deploy()
    assert done.changed == [True]
    assert not [line for line in [*done.commands, done.shown] if "#aaa" in line or "#ccc" in line]
    assert not [call for call in pi.programs.calls() if "#" in call]


# -- what service() asks after a start


def started(pi: Pi, condition: bool) -> int:
    """Status of the command, where a shell's `set -e` counts and where it does not."""
    asked = ready(ConfigFile(str(pi.acl), "")).replace(f"={pi.acl}", f"='{pi.acl}'")
    form = f"if ! (eval '{{ true; }}'; {asked}) >&2; then exit 1; fi" if condition else asked
    return subprocess.run(["sh", "-ec", form], check=False, capture_output=True).returncode


@pytest.mark.parametrize("condition", [False, True])
@pytest.mark.parametrize("fault", ["stranger", "down"])
def test_server_that_does_not_take_our_password_is_not_ready(
    pi: Pi, fault: str, condition: bool
) -> None:
    pi.record.unlink()
    assert started(pi, condition) == 0
    pi.record.unlink()
    pi.fault(fault)
    assert started(pi, condition) != 0
    assert not pi.record.exists()


def test_record_of_the_users_is_for_root_and_holds_no_hash(pi: Pi) -> None:
    assert pi.record.parent.stat().st_mode & 0o777 == 0o700
    assert "#" not in pi.record.read_text()
    assert os.listdir(pi.record.parent) == ["redis-acl"]  # noqa: PTH208


# -- facts and files


@pytest.mark.parametrize(
    ("output", "server"),
    [
        ([], Server()),
        (["Could not connect to Redis", ""], Server()),
        (["answers"], Server(True, False, {})),
        (["answers", "users"], Server(True, True, {})),
        (["answers", "save", "", "dir", "/x y"], Server(True, False, {"save": "", "dir": "/x y"})),
        (["answers", "users", "save", "900 1"], Server(True, True, {"save": "900 1"})),
        (
            ["answers", "NOPERM no permissions", ""],
            Server(True, False, {"NOPERM no permissions": ""}),
        ),
        (["answers", "ERR unknown"], Server(True, False, {})),
    ],
)
def test_state_of_the_server_is_read_from_its_answers(output: list[str], server: Server) -> None:
    assert RedisServer().process(output) == server


def test_admin_who_lost_a_right_by_hand_is_mended(pi: Pi) -> None:
    pi.fault("noperm")
    by_hand(pi)
    assert pi.plan().planned == [True]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# a b\n\n   \n#c d\n", {}),
        ("a b\n", {"a": "b"}),
        ("a   b  c\n", {"a": "b  c"}),
        ("a\tb\nc d", {"a": "b", "c": "d"}),
        ("alone\n", {}),
        ("a b\na c\n", {"a": "c"}),
    ],
)
def test_directives_of_a_file_are_names_and_values(text: str, found: dict[str, str]) -> None:
    assert directives(text) == found
