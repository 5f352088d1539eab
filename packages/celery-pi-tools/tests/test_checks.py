"""The checks of `celery-pi status` and `audit`: what they make of what they read, and show."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.transport.virtual import Message
from kombu.utils.json import loads

from celery_pi.settings import Settings
from celery_pi_tools import checks, maintenance, redis_client, table, worker_control
from celery_pi_tools import system as system_module
from celery_pi_tools.checks import (
    disk,
    machine,
    network,
    redis_state,
    registry,
    task_state,
    tasks,
)
from celery_pi_tools.commands import CannotRead
from celery_pi_tools.system import System
from fake_system import UP
from tests.helpers.fake import ME, Programs, as_root
from tests.helpers.hostile import TEXT, put

pytestmark = pytest.mark.fast


def info(**values: object) -> Any:
    """A Pi with these figures in Redis' INFO."""
    system = System(Settings().model_dump())
    system.info = {name: str(value) for name, value in values.items()}
    return system


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**28, "256.0 MiB"), (2**33, "8.0 GiB")],
)
def test_size_is_read_by_people(number: int, text: str) -> None:
    assert table.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-3, "0 s"), (0.9, "0 s"), (59, "59 s"), (60, "1 min"), (61, "1 min 1 s")),
        *((3600, "1 h"), (7500, "2 h 5 min"), (86400 * 3 + 3600, "3 d 1 h")),
    ],
)
def test_age_is_told_in_two_units(seconds: float, text: str) -> None:
    assert table.age(seconds) == text


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> list[registry.Row]:
    """A row of each state."""
    monkeypatch.setattr(registry, "CHECKS", [])
    for section, name, result in (
        ("Redis", "Server", registry.ok("version 8", version="8")),
        ("Redis", "Memory", registry.warn("80 %", "raise it", used=80)),
        ("Units", "nginx", registry.wrong("failed", "start it")),
        ("Units", "none", None),
    ):
        registry.check(section, name, "status")(lambda _, result=result: result)
    return list(registry.rows(System({}), "status"))


def test_table_marks_what_is_wrong_and_says_what_to_do(three: Any) -> None:
    assert table.as_table(three).splitlines() == [
        "Redis",
        "         Server  version 8",
        "  warn   Memory  80 %",
        "                 -> raise it",
        "Units",
        "  WRONG  nginx   failed",
        "                 -> start it",
        "1 wrong (nginx); 1 warn (Memory)",
    ]


def test_text_of_others_is_no_command_to_the_terminal() -> None:
    wrong = registry.wrong
    row = registry.Row("Redis", TEXT, wrong(TEXT, TEXT))
    told = table.as_table([row])
    assert told.count("\n") == 3
    assert all(line.isprintable() for line in told.split("\n"))
    assert told.encode()
    assert "all is well" not in told.split("\n")
    assert table.as_json("status", [row]).isascii()


def test_text_without_an_end_is_cut() -> None:
    row = registry.Row("Redis", "Name", registry.ok("x" * 2**20))
    assert len(table.as_table([row])) < 3000


def test_json_says_the_same(three: Any) -> None:
    told = json.loads(table.as_json("status", three))
    assert not told["well"]
    assert [(row["name"], row["state"]) for row in told["checks"]] == [
        *(("Server", "ok"), ("Memory", "warn"), ("nginx", "wrong"))
    ]
    assert told["checks"][1]["values"] == {"used": 80}
    assert json.loads(table.as_json("status", three[:2]))["well"]


@pytest.mark.parametrize(
    ("error", "evidence"),
    [
        (ValueError("s3cret"), "cannot be read: ValueError: a fault of celery-pi"),
        (KeyError("s3cret"), "cannot be read: KeyError: a fault of celery-pi"),
        (FileNotFoundError(2, "No such file", "/x"), "cannot be read: No such file /x"),
    ],
)
def test_check_that_fails_is_wrong_and_tells_no_secret(error: Exception, evidence: str) -> None:
    def fail(_: object) -> None:
        raise error

    result = registry.judged(fail, None)
    assert (result.level, result.evidence) == ("wrong", evidence)
    assert result.remedy


def test_module_of_a_component_that_was_added_is_run_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("redis_state", "added", "__init__"):
        (tmp_path / f"{name}.py").touch()
    monkeypatch.setattr(checks, "__file__", str(tmp_path / "__init__.py"))
    assert checks.modules() == (*checks.ORDER, "added")


def test_view_shows_its_checks_by_section_and_the_doctor_in_the_order_of_causes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "CHECKS", [])
    for section, name, *views in (
        ("added", "one", "status"),
        ("Units", "two", "status", "doctor"),
        ("Redis", "three", "status", "audit"),
        ("Redis", "four", "doctor"),
    ):
        registry.check(section, name, *views)(lambda _: None)
    shown = {view: [each.name for each in registry.of_view(view)] for view in registry.VIEWS}
    assert shown == {
        **{"status": ["three", "two", "one"], "audit": ["three"], "doctor": ["two", "four"]}
    }


@pytest.mark.parametrize(
    ("bits", "now", "before"),
    [
        (0, [], []),
        (0x50000, [], ["under-voltage", "throttled"]),
        (0x50005, ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
        (0xA, ["frequency capped", "too hot"], []),
        (0xF0000, [], ["under-voltage", "frequency capped", "throttled", "too hot"]),
    ],
)
def test_throttling_is_decoded(bits: int, now: list[str], before: list[str]) -> None:
    assert machine.decoded(bits) == (now, before)


@pytest.mark.parametrize(
    ("answer", "state"),
    [("throttled=0x0", "ok"), ("throttled=0x10000", "warn"), ("throttled=0x1", "wrong")],
)
def test_power_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, state: str
) -> None:
    Programs(tmp_path, monkeypatch).add("vcgencmd", f"echo {answer}")
    assert machine.power(None).level == state


def test_power_is_left_out_where_there_is_no_vcgencmd() -> None:
    assert machine.power(None) is None


@pytest.mark.parametrize(
    ("free", "state"), [(50, "ok"), (9, "warn"), (0.1, "wrong")], ids=["half", "low", "none"]
)
def test_disk_is_judged(monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    blocks = 2**22  # of 4 KiB: 16 GiB
    shown = SimpleNamespace(
        f_bavail=int(blocks * free / 100), f_blocks=blocks, f_frsize=4096, f_files=0
    )
    monkeypatch.setattr(os, "statvfs", lambda _: shown)
    assert disk.room("/").level == state


@pytest.mark.parametrize(
    ("celsius", "state"), [([], None), ([40, 50], "ok"), ([40, 76], "warn"), ([90], "wrong")]
)
def test_temperature_is_the_hottest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    celsius: list[int],
    state: str | None,
) -> None:
    monkeypatch.setattr(machine, "THERMAL", tmp_path)
    for place, degrees in enumerate(celsius):
        zone = tmp_path / f"thermal_zone{place}"
        zone.mkdir()
        (zone / "temp").write_text(f"{degrees}000\n")
    result = machine.temperature(None)
    assert (result and result.level) == state
    assert not celsius or result.values["celsius"] == max(celsius)


@pytest.mark.parametrize(
    ("used", "limit", "state"),
    [(1, 100, "ok"), (70, 100, "warn"), (95, 100, "wrong"), (1, 0, "wrong")],
)
def test_memory_of_redis_is_judged(used: int, limit: int, state: str) -> None:
    assert redis_state.memory(info(used_memory=used, maxmemory=limit)).level == state


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({}, "ok"),
        ({"aof_enabled": 0}, "wrong"),
        ({"aof_last_write_status": "err"}, "wrong"),
        ({"aof_last_bgrewrite_status": "err"}, "wrong"),
    ],
    ids=["well", "off", "write", "rewrite"],
)
def test_append_only_file_is_judged(told: dict[str, object], state: str) -> None:
    well = {"aof_last_write_status": "ok", "aof_last_bgrewrite_status": "ok", "aof_enabled": 1}
    system = info(**{**well, "aof_current_size": 1, "aof_delayed_fsync": 0, **told})
    assert redis_state.append_only_file(system).level == state


@pytest.mark.parametrize(
    ("schedule", "state"),
    [
        (None, "ok"),
        ("{}", "ok"),
        ('{"tick": ["2020-01-01T00:00:00+00:00", 3]}', "ok"),
        ('{"tick": "?"}', "wrong"),
        ('{"tick": ["2020', "wrong"),
        ("[" * 100000, "wrong"),
    ],
)
@as_root
def test_beats_schedule_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str | None, state: str
) -> None:
    path = tmp_path / "schedule"
    if schedule is not None:
        path.write_text(schedule)
    monkeypatch.setattr(task_state, "SCHEDULE", path)
    system: Any = System(Settings(app_user=ME).model_dump())
    system.units = {"celery-beat": UP}
    assert task_state.beat(system).level == state


@as_root
@pytest.mark.parametrize("what", ["fifo", "device", "sparse file", "directory"])
def test_schedule_that_is_no_such_file_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    put(tmp_path / "schedule", what)
    monkeypatch.setattr(task_state, "SCHEDULE", tmp_path / "schedule")
    system: Any = System(Settings(app_user=ME).model_dump())
    system.units = {"celery-beat": UP}
    begun = time.monotonic()
    result = registry.judged(task_state.beat, system)
    assert time.monotonic() - begun < 2
    assert result.level == "wrong"
    assert "no regular file" in result.evidence or "is larger than" in result.evidence


def test_check_that_waits_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TIMEOUT", 0.1)
    result = registry.judged(lambda _: time.sleep(60), None)
    assert (result.level, result.evidence) == (
        "wrong",
        "cannot be read: does not end within 0.1 s",
    )


# As the kernel writes them on a little-endian machine: sshd and Redis; nginx and ::1 on IPv6.
TCP = """  sl  local_address rem_address   st
   0: 00000000:0016 00000000:0000 0A
   1: 0100007F:18EB 00000000:0000 0A
   2: 0100007F:18EB 0100007F:8D2A 01
"""
TCP6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A
   1: 00000000000000000000000001000000:18EB 00000000000000000000000000000000:0000 0A
   2: 0000000000000000FFFF00000100007F:18EC 00000000000000000000000000000000:0000 0A
"""


@pytest.mark.skipif(sys.byteorder == "big", reason="the tables are of a little-endian machine")
@pytest.mark.parametrize(
    ("added", "ports"), [("", None), ("   3: 00000000:18EB 00000000:0000 0A\n", [6379])]
)
def test_sockets_beyond_loopback_are_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    added: str,
    ports: list[int] | None,
) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TCP + added)
    (tmp_path / "net/tcp6").write_text(TCP6)
    monkeypatch.setattr(network, "PROC", tmp_path)
    system = System(Settings(firewall=False).model_dump())
    system.ssh_ports = {22}
    result = network.listening(system)
    assert (result.level, result.values["ports"]) == (
        ("wrong", ports) if ports else ("ok", [22, 443])
    )


def test_listening_socket_of_this_machine_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        table = Path("/proc/net/tcp").read_text()
        assert ("127.0.0.1", server.getsockname()[1]) in network.sockets(table)


# -- the client of Redis


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Redis that answers with what the test puts into `replies`, and notes what it was sent."""
    path, secrets = tmp_path / "socket", tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "redis_monitor_password").write_text("new s3cret")
    monkeypatch.setattr(redis_client, "SOCKET", str(path))
    monkeypatch.setattr(redis_client, "SECRETS", str(secrets))
    known = SimpleNamespace(replies=[], sent=[], secrets=secrets)

    def answer() -> None:
        client, _ = listener.accept()
        with client, suppress(OSError):  # the client may have heard enough
            for reply in known.replies:
                known.sent.append(client.recv(4096))
                client.sendall(reply)
            client.recv(4096)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        Thread(target=answer, daemon=True).start()
        yield known


def test_client_speaks_redis_protocol(server: Any) -> None:
    server.replies += [b"+OK\r\n", b":-3\r\n", b"$6\r\na\r\n\xc3\xa9b\r\n", b"*2\r\n$-1\r\n:1\r\n"]
    connection = redis_client.login("monitor", 5)
    replies = [connection.ask(word) for word in ("LLEN", "GET", "LRANGE")]
    assert replies == [-3, "a\r\néb", [None, 1]]
    assert server.sent[0] == b"*3\r\n$4\r\nAUTH\r\n$7\r\nmonitor\r\n$10\r\nnew s3cret\r\n"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"$9000000\r\n", "larger than"),
        (b"$99999999999999999999\r\n", "larger than"),
        (b"*99999999\r\n" + b":1\r\n" * 70000, "values"),
        (b"*1\r\n" * 2000, "levels"),
        (b"+" + b"x" * 9 * 2**20, "larger than"),
        (b"$" + b"9" * 5000 + b"\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\n", "protocol"),
        (b"+\xff\r\n", ""),
    ],
)
def test_reply_that_takes_all_memory_is_not_read(server: Any, reply: bytes, reason: str) -> None:
    server.replies += [b"+OK\r\n", reply]
    connection = redis_client.login("monitor", 5)
    if not reason:
        assert connection.ask("PING") == "\ufffd"
        return
    with pytest.raises(redis_client.Unreadable, match=reason):
        connection.ask("PING")


def test_reply_that_comes_in_drops_has_one_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "slow"))
        listener.listen()

        def drip() -> None:
            client, _ = listener.accept()
            with client, suppress(OSError):
                while True:
                    client.sendall(b"+")
                    time.sleep(0.05)

        Thread(target=drip, daemon=True).start()
        connection = redis_client.Connection(0.3, str(tmp_path / "slow"))
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.ask("PING")
        assert time.monotonic() - begun < 1


def test_question_after_an_unreadable_reply_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = iter([redis_client.Unreadable("its reply is larger"), "PONG"])
    made: list[Any] = []

    def login(*_: object) -> Any:
        made.append(SimpleNamespace(ask=lambda *_: given(next(replies))))
        return made[-1]

    def given(reply: Any) -> Any:
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(system_module, "login", login)
    system = System(Settings().model_dump())
    with pytest.raises(CannotRead, match="nonsense"):
        system.ask("LRANGE", "x", "0", "-1")
    assert system.ask("PING") == "PONG"
    assert len(made) == 2


def test_client_tries_the_old_password_while_they_change(server: Any) -> None:
    (server.secrets / "redis_monitor_password.old").write_text("old s3cret")
    server.replies += [b"-WRONGPASS no\r\n", b"+OK\r\n", b"+PONG\r\n"]
    assert redis_client.login("monitor", 5).ask("PING") == "PONG"
    assert b"old s3cret" in server.sent[1]


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([b"-WRONGPASS no\r\n"], "it does not take the stored password of its user monitor"),
        ([b"+OK\r\n", b"-NOPERM no permissions\r\n"], "NOPERM no permissions"),
        ([b"+OK\r\n", b""], "timed out"),
    ],
    ids=["password", "rights", "silent"],
)
def test_redis_that_does_not_answer_is_told_with_a_remedy(
    server: Any, monkeypatch: pytest.MonkeyPatch, replies: list[bytes], reason: str
) -> None:
    monkeypatch.setattr(system_module, "REDIS_TIMEOUT", 0.2)
    server.replies += replies
    result = registry.judged(redis_state.server, System(Settings().model_dump()))
    assert result.level == "wrong"
    assert result.evidence.endswith(reason)
    assert result.remedy
    assert "s3cret" not in result.evidence


def test_redis_that_is_away_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def away(user: str, *_: object) -> None:
        tries.append(user)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(system_module, "login", away)
    system = System(Settings().model_dump())
    results = [
        registry.judged(asked, system)
        for asked in (
            redis_state.server,
            task_state.queues,
            tasks.dead_letters,
        )
    ]
    assert {result.evidence for result in results} == {
        "cannot be read: Redis does not answer: Connection refused"
    }
    assert tries == ["monitor"]


def test_password_that_is_refused_is_tried_once(server: Any) -> None:
    server.replies.append(b"-WRONGPASS no\r\n")
    system = System(Settings().model_dump())
    asked = (redis_state.server, task_state.queues)
    told = {registry.judged(each, system).evidence for each in asked}
    assert len(told) == 1
    assert "does not take the stored password" in told.pop()
    assert len(server.sent) == 1


# -- asking the workers


class Workers:
    """A Redis in which some workers answer questions, or do not."""

    def __init__(self, names: list[str], answers: bool = True) -> None:
        self.names, self.answers = names, answers
        self.written: list[str] = []
        self.asked: list[tuple[str, ...]] = []
        self.settings = {"redis_database": 3, "redis_key_prefix": "birds:"}

    def key(self, name: str) -> str:
        return f"birds:{name}"

    def ask(self, *words: str, user: str) -> Any:
        self.asked.append(words)
        assert user == "admin"
        if words[0] == "PUBLISH":
            self._answer(words[2])
            return len(self.names)
        if words[0] == "BRPOP":
            assert 0 < float(words[2]) < 1, "forever, or longer than the patience with Redis"
            return [words[1], self.written.pop(0)] if self.written else None
        return 1

    def _answer(self, text: str) -> None:
        """With kombu, as a worker reads and writes."""
        message = Message(loads(text), channel=SimpleNamespace(decode_body=decoded))
        body = message.decode()
        for name in self.names if self.answers else ():
            reply = {name: [{"name": body["method"]}]}
            headers = {"ticket": body["ticket"]}
            self.written.append(json.dumps({"body": encoded(reply), "headers": headers}))


def decoded(body: str, _: str) -> bytes:
    return base64.b64decode(body)


def encoded(reply: object) -> str:
    return base64.b64encode(json.dumps(reply).encode()).decode()


def test_workers_answers_are_gathered() -> None:
    redis = Workers(["celery@a", "celery@b"])
    told, heard = worker_control.ask_workers(redis, ("active", "scheduled"))
    assert heard == 2
    assert told == {
        method: {name: [{"name": method}] for name in redis.names}
        for method in ("active", "scheduled")
    }
    assert redis.asked[1][1] == "birds:/3.celery.pidbox"


def test_answer_that_takes_all_memory_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_control, "LARGEST", 100)
    with pytest.raises(CannotRead, match="more than 100 bytes"):
        worker_control.ask_workers(Workers(["celery@a"]), ("active",))


@pytest.mark.parametrize(
    "message",
    [
        "no JSON",
        "[" * 100_000,
        "5",
        '"text"',
        "{}",
        '{"body": 5, "headers": {"ticket": "x"}}',
        '{"body": "é", "headers": {"ticket": "x"}}',
        json.dumps({"body": encoded([]), "headers": {"ticket": "x"}}),
        json.dumps({"body": encoded({}), "headers": {"ticket": []}}),
        json.dumps({"body": encoded({}), "headers": {"ticket": "another"}}),
        json.dumps({"body": encoded({}), "headers": 5}),
    ],
    ids=lambda message: message[:20],
)
def test_answer_of_another_form_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    redis = Workers(["celery@a"], answers=False)
    redis.written.append(message)
    with pytest.raises(CannotRead, match=r"^a worker"):
        worker_control.ask_workers(redis, ("active",))
    assert [words[0] for words in redis.asked[-2:]] == ["SREM", "DEL"], "it leaves nothing behind"
    redis.written.append(message)
    monkeypatch.setattr(maintenance, "System", lambda _: redis)
    assert maintenance.consumes({}) is None


@pytest.mark.parametrize("command", ["PUBLISH", "BRPOP"])
@pytest.mark.parametrize("reply", ["text", ["x"], [], {}])
def test_reply_of_a_redis_in_other_hands_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, command: str, reply: Any
) -> None:
    redis = Workers(["celery@a"])
    real = redis.ask

    def ask(*words: str, user: str) -> Any:
        return reply if words[0] == command else real(*words, user=user)

    monkeypatch.setattr(redis, "ask", ask)
    with pytest.raises(CannotRead, match=r"^Redis"):
        worker_control.ask_workers(redis, ("active",))


@pytest.mark.parametrize("names", [[], ["celery@deaf"]])
def test_workers_that_do_not_answer_are_not_awaited_for_long(
    monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    monkeypatch.setattr(worker_control, "TIMEOUT", 0.1)
    redis = Workers(names, answers=False)
    assert worker_control.ask_workers(redis, ("active",)) == ({"active": {}}, len(names))
    assert [words[0] for words in redis.asked[-2:]] == ["SREM", "DEL"], "it leaves nothing behind"


@pytest.mark.parametrize(
    ("names", "evidence"),
    [
        (["celery@deaf"], "0 active, 0 scheduled; 1 worker did not answer"),
        ([], "no worker can be asked"),
    ],
)
def test_worker_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, names: list[str], evidence: str
) -> None:
    monkeypatch.setattr(worker_control, "TIMEOUT", 0.1)
    result = task_state.in_workers(Workers(names, answers=False))
    assert (result.level, result.evidence) == ("warn", evidence)
