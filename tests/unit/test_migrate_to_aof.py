"""Data of a server that ran before we came is kept, or the server is left as it is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from celery_pi.operations import migrate_to_aof as module
from celery_pi.operations.migrate_to_aof import migrate_to_aof
from tests.helpers.fake import Programs, Run, run

# That server: a file for each thing it can say, each fault and each thing that was done to it.
# Like redis-cli it ends an error with an empty line, and with status 0.
REDIS = r"""
echo "$REDISCLI_AUTH" >>auth
error() { printf '%s\n\n' "$*"; }
[ ! -e password ] || [ "$REDISCLI_AUTH" = "$(cat password)" ] || { error NOAUTH; exit; }
[ "$1" != -p ] || { echo "$2" >>port; shift 2; }
case $* in
  "info persistence") read -r enabled <aof; read -r left <left; scheduled=0
    [ "$enabled" = 0 ] || [ "$left" = 0 ] || echo $((left - 1)) >left
    [ ! -e snapshot ] || [ "$left" -lt 3 ] || scheduled=1
    [ "$scheduled" = 0 ] && [ "$left" -gt 0 ] && now=1 || now=0
    printf '%s\r\n' "# Persistence" "aof_enabled:$enabled" "aof_rewrite_in_progress:$now" \
      "aof_rewrite_scheduled:$scheduled" "aof_last_bgrewrite_status:$(cat status)" ;;
  "info keyspace") printf '# Keyspace\r\n'; cat keyspace ;;
  "config get dir") [ ! -e renamed ] || { error "ERR unknown command 'config'"; exit; }
    echo dir; cat dir ;;
  "config set appendonly yes") [ ! -e renamed ] || { error "ERR unknown command 'config'"; exit; }
    echo 1 >aof; echo OK ;;
  save) [ ! -e full ] || { error "ERR cannot save"; exit; }
    echo OK ;;
  *) error "ERR unknown command" ;;
esac
"""


class Theirs:
    """A server with snapshots and three keys."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = directory / "state"
        self.state.mkdir()
        self.data = directory / "the data"
        self.config = directory / "redis.conf"
        self.records = directory / "records"
        for name, value in (
            ("CONFIG", self.config),
            ("DATA", self.data),
            ("RECORDS", self.records),
        ):
            monkeypatch.setattr(module, name, str(value))
        self.programs = Programs(directory, monkeypatch)
        self.programs.add("redis-cli", f"cd {self.state}{REDIS}")
        self.programs.add("systemctl", f"cat {self.state}/active")
        self.programs.add("sleep")
        # There may be no user redis here.
        as_redis = "case $1 in --reuid=redis) ;; *) exit 1 ;; esac"
        self.programs.add(
            "setpriv", f'{as_redis}\nwhile [ "${{1#--}}" != "$1" ]; do shift; done; "$@"'
        )
        self.say(active="active", aof="0", left="3", status="ok", dir=str(self.data))
        self.say(keyspace="db0:keys=3,expires=0,avg_ttl=0")

    def say(self, **facts: str) -> None:
        for name, fact in facts.items():
            (self.state / name).write_text(f"{fact}\n")

    def deploy(self, dry: bool = False) -> Run:
        return run(lambda: migrate_to_aof(name="Keep"), dry=dry)

    def changes(self) -> list[str]:
        """What was done to the server; what it was asked is left out."""
        calls = [call.split(" ", 3)[3] for call in self.programs.calls() if "redis-cli" in call]
        return [call for call in calls if not call.startswith(("info", "config get"))]


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Theirs:
    return Theirs(tmp_path, monkeypatch)


APPENDONLY = ["config set appendonly yes"]


def test_data_of_a_running_server_goes_into_its_append_only_file(theirs: Theirs) -> None:
    done = theirs.deploy()
    assert (done.planned, done.changed, done.error) == ([True], [True], "")
    assert theirs.changes() == APPENDONLY
    assert (theirs.state / "left").read_text() == "0\n"  # until it was written
    again = theirs.deploy()
    assert (again.planned, again.changed) == ([False], [False])
    assert "there is nothing to keep" in again.shown
    assert theirs.changes() == []


def test_plan_does_nothing_to_that_server(theirs: Theirs) -> None:
    assert theirs.deploy(dry=True).planned == [True]
    assert theirs.changes() == []


@pytest.mark.parametrize(
    "keyspace", ["db5:keys=1,expires=0,avg_ttl=0", "db0:keys=1\r\ndb15:keys=2\r"]
)
def test_data_in_any_database_counts(theirs: Theirs, keyspace: str) -> None:
    theirs.say(keyspace=keyspace)
    assert theirs.deploy(dry=True).planned == [True]


@pytest.mark.parametrize(
    "facts", [{"keyspace": ""}, {"aof": "1"}, {"active": "inactive"}, {"active": "failed"}]
)
def test_server_that_is_empty_safe_or_stopped_is_left_alone(
    theirs: Theirs, facts: dict[str, str]
) -> None:
    theirs.say(**facts)
    done = theirs.deploy()
    assert (done.planned, done.changed, done.error) == ([False], [False], "")
    assert theirs.changes() == []


def test_server_that_we_started_is_not_even_asked(theirs: Theirs) -> None:
    theirs.records.mkdir()
    (theirs.records / "redis-server.service").touch()
    assert theirs.deploy().changed == [False]
    assert theirs.programs.calls() == []


def test_machine_without_redis_is_an_answer(theirs: Theirs) -> None:
    for name in ("redis-cli", "systemctl"):
        theirs.programs.add(name, "exit 127")
    assert theirs.deploy().error == ""


def test_append_only_file_that_waits_for_a_snapshot_is_waited_for(theirs: Theirs) -> None:
    theirs.say(snapshot="", left="5")
    assert theirs.deploy().error == ""
    assert (theirs.state / "left").read_text() == "0\n"


def test_append_only_file_that_could_not_be_written_fails_the_deploy(theirs: Theirs) -> None:
    theirs.say(status="err")
    done = theirs.deploy()
    assert done.error
    assert "Redis could not write its append-only file" in done.shown


def test_append_only_file_that_takes_too_long_fails_the_deploy(
    theirs: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "seq 600" in module.KEEP
    monkeypatch.setattr(module, "KEEP", module.KEEP.replace("seq 600", "seq 6"))
    theirs.say(left="100")
    assert theirs.deploy().error
    theirs.say(left="100", snapshot="", aof="0")
    assert theirs.deploy().error


def test_server_whose_config_command_was_renamed_saves_a_snapshot(theirs: Theirs) -> None:
    theirs.say(renamed="")
    done = theirs.deploy()
    assert done.error == ""
    assert theirs.changes() == [*APPENDONLY, "save"]
    theirs.say(full="")
    done = theirs.deploy()
    assert done.error
    assert "Redis could not save its data" in done.shown


def test_data_elsewhere_is_left_there_and_the_deploy_fails(theirs: Theirs) -> None:
    theirs.say(dir="/srv/redis")
    done = theirs.deploy()
    assert done.error
    assert f"Redis keeps its data in /srv/redis: move it to {theirs.data} first" in done.shown
    assert theirs.changes() == []


@pytest.mark.parametrize(
    ("config", "password", "port"),
    [
        (None, "", "6379"),
        ("# requirepass no\nport 7000\n", "", "7000"),
        ("requirepass s3cret\nport   7000\nport 7001\n", "s3cret", "7001"),
        ('requirepass one\nrequirepass\t "s3 c$ret#" \n', "s3 c$ret#", "6379"),
        ("# a\nrequirepass   s3\"c'ret", "s3\"c'ret", "6379"),
    ],
)
def test_server_is_asked_on_its_port_with_the_password_in_its_configuration(
    theirs: Theirs, config: str | None, password: str, port: str
) -> None:
    if config is not None:
        theirs.config.write_text(config)
    if password:
        (theirs.state / "password").write_text(password)
    done = theirs.deploy()
    assert (done.changed, done.error) == ([True], "")
    assert set((theirs.state / "auth").read_text().splitlines()) == {password}
    assert set((theirs.state / "port").read_text().splitlines()) == {port}
    assert "s3" not in done.shown + "".join(done.commands + theirs.programs.calls())


def test_configuration_that_is_a_trap_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User redis may put there what he likes."""
    theirs = Theirs(tmp_path, monkeypatch)
    os.mkfifo(theirs.config)
    monkeypatch.setattr(module, "CLI", module.CLI.replace("timeout 10", "timeout 0.2"))
    assert "timeout 0.2" in module.CLI
    start = time.monotonic()
    theirs.deploy()
    assert time.monotonic() - start < 20


def test_what_listens_there_and_keeps_silent_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Theirs(tmp_path, monkeypatch)
    theirs.programs.add("redis-cli", "exec tail -f /dev/null")
    monkeypatch.setenv("patience", "1")
    began = time.monotonic()
    assert theirs.deploy(dry=True).planned == [False]
    assert time.monotonic() - began < 20
