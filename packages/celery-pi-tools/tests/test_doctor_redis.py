"""`celery-pi doctor` and Redis: its settings, its users, what fills its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from celery_pi.operations.redis_server import directives
from celery_pi.settings import Settings, of_memory
from celery_pi_tools import redis_client
from celery_pi_tools.checks import redis_memory, redis_server, redis_settings
from fake_system import answering, consuming, fake_system
from tasks.redis import conf
from tests.helpers.fake import Programs, as_root, mode

pytestmark = pytest.mark.fast


# -- Redis' settings


@pytest.mark.parametrize(
    "settings",
    [{}, {"redis_socket": True}, {"redis_tls": True}, {"redis_maxmemory_policy": "noeviction"}],
)
def test_wanted_settings_are_those_that_a_deploy_writes(settings: dict[str, Any]) -> None:
    deployed = Settings(redis_maxmemory=of_memory("25%", 1024), **settings)
    system = fake_system(redis_maxmemory=deployed.redis_maxmemory, **settings)
    for path, wanted in redis_settings.settings_by_file(system).items():
        written = directives(conf(path.name, deployed).content)
        assert wanted == {name: written[name] for name in wanted}


@pytest.fixture
def redis_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings = Settings(redis_maxmemory="64mb")
    for name in ("AT_START", "LIVE"):
        path = getattr(redis_settings, name)
        (tmp_path / path.name).write_text(conf(path.name, settings).content)
        monkeypatch.setattr(redis_settings, name, tmp_path / path.name)
    return tmp_path


@as_root
@pytest.mark.parametrize(
    ("name", "before", "after", "told"),
    [
        ("redis.conf", "\nport 6379", "\nport 7000", "port is 7000, not 6379"),
        ("redis.conf", "\nport 6379", "\nport 6379\nport 7000", "port is 7000, not 6379"),
        ("redis-live.conf", "-ttl", "-lru", "maxmemory-policy is volatile-lru, not volatile-"),
        ("redis-live.conf", "appendonly yes", "appendonly no", "appendonly is no, not yes"),
    ],
)
def test_changed_file_of_redis_is_written_back(
    redis_conf: Path, name: str, before: str, after: str, told: str
) -> None:
    path = redis_conf / name
    text = path.read_text()
    path.chmod(0o640)
    assert redis_settings.in_files(fake_system()) is None
    path.write_text(text.replace(before, after))
    found = redis_settings.in_files(fake_system())
    assert told in found.evidence
    found.fix()
    assert path.read_text() == text
    assert mode(path) == 0o640


def test_directive_that_is_missing_is_told(redis_conf: Path) -> None:
    path = redis_conf / "redis-live.conf"
    path.write_text(path.read_text().replace("appendonly yes\n", ""))
    assert "appendonly is missing, not yes" in redis_settings.in_files(fake_system()).evidence


def test_running_server_is_set_back() -> None:
    wanted = {
        name: value
        for each in redis_settings.settings_by_file(fake_system()).values()
        for name, value in each.items()
    }
    running = {**wanted, "appendonly": "no", "port": "7000"}
    system = fake_system(
        {
            "CONFIG GET": lambda *words: [words[2], running[words[2]]],
            "CONFIG SET": lambda *words: running.update({words[2]: words[3]}),
        },
    )
    found = redis_settings.in_server(system)
    assert "port is 7000, not 6379; appendonly is no, not yes" in found.evidence
    found.fix()
    assert running == wanted
    assert redis_settings.in_server(system) is None


@pytest.mark.parametrize(
    ("bind", "level", "evidence"),
    [
        ("127.0.0.1 -::1", "ok", "127.0.0.1 -::1"),
        ("* -::*", "wrong", "* -::*, not 127.0.0.1 -::1"),
        ("", "wrong", "nothing, not 127.0.0.1 -::1"),
    ],
)
def test_running_redis_is_compared_with_what_was_deployed(
    bind: str, level: str, evidence: str
) -> None:
    found = redis_settings.configured("bind")(fake_system({"CONFIG GET bind": ["bind", bind]}))
    assert (found and (found.level, found.evidence)) == (level, evidence)


def test_users_are_set_as_the_file_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "ACL", tmp_path / "acl")
    (tmp_path / "acl").write_text("user default reset off ~*\n\nuser celery on #ab (~x +get)\n")
    system = fake_system()
    redis_server.set_users(system)
    assert system.asked == [
        "ACL SETUSER default reset reset off ~*",
        "ACL SETUSER celery reset on #ab (~x +get)",
    ]


def test_rules_that_speak_of_loopback_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Programs(tmp_path, monkeypatch).add("iptables-save")
    system = fake_system()
    system.filters = {
        4: "-A INPUT -i lo -p tcp -j DROP\n-A ufw-before-input -i lo -j ACCEPT\n-A x -j DROP\n"
    }
    assert redis_settings.in_the_way(system) == ["-A INPUT -i lo -p tcp -j DROP"]


# -- memory


def memory(keys: dict[str, tuple[int, int]], used: int, there: int = 0, **settings: Any) -> Any:
    """A Redis with keys of so many bytes and seconds to live, that uses as much of 100 MB."""
    replies = {
        "SCAN": ["0", list(keys)],
        "MEMORY USAGE": lambda *words: keys[words[2]][0],
        "TTL": lambda *words: keys[words[1]][1],
        "EXPIRE": lambda *words: keys.update({words[1]: (keys[words[1]][0], int(words[2]))}),
        "DBSIZE": there or len(keys),
        "TYPE": "list",
        "CONFIG GET": ["maxmemory-policy", settings.get("redis_maxmemory_policy", "volatile-ttl")],
    }
    system = answering(fake_system(replies, **settings), active_queues=consuming("celery"))
    system.info = {"used_memory": str(used), "maxmemory": str(100 * 2**20)}
    return system


RESULT = "celery-task-meta-"
MIB = 2**20


def test_memory_that_is_not_full_is_not_looked_into() -> None:
    system = memory({}, 60 * MIB)
    assert redis_memory.fills(system) is None
    assert system.asked == []


def test_results_that_expire_make_room_for_tasks() -> None:
    keys = {f"{RESULT}{n}": (MIB, 500) for n in range(80)}
    assert redis_memory.fills(memory(keys, 82 * MIB)) is None
    kept = memory(keys, 82 * MIB, redis_maxmemory_policy="noeviction")
    assert redis_memory.fills(kept)


def test_results_without_an_expiry_get_one() -> None:
    keys = {f"{RESULT}{n}": (MIB, -1) for n in range(80)}
    system = memory(keys, 82 * MIB)
    found = redis_memory.fills(system)
    assert "80.0 MiB results that never expire" in found.evidence
    found.fix()
    assert redis_memory.fills(system) is None


def test_what_fills_memory_is_named_with_its_largest_key() -> None:
    keys = {"celery": (50 * MIB, -1), "celery\x06\x169": (5 * MIB, -1), "old": (20 * MIB, -1)}
    found = redis_memory.fills(memory(keys, 80 * MIB))
    assert "55.0 MiB tasks in the queue celery, 20.0 MiB other lists" in found.evidence
    assert "50.0 MiB in the one key celery" in found.evidence
    assert found.fix is None


def test_what_was_not_seen_is_extrapolated() -> None:
    system = memory({"celery": (MIB, -1)}, 80 * MIB, there=10)
    assert redis_memory.contents(system).kinds["tasks in the queue celery"] == 10 * MIB


# -- answers


class Server:
    """Stands for a connection; PING is answered, refused, or not answered."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, ...]] = []

    def ask(self, *words: str) -> str:
        self.asked.append(words)
        if self.error:
            raise self.error
        return "PONG"


def test_redis_that_answers_is_well_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (None, redis_client.Refused("LOADING Redis is loading the dataset in memory")):
        monkeypatch.setattr(redis_server, "login", lambda *_, e=error: Server(e))
        assert redis_server.silent(fake_system()) is None


def test_redis_that_is_silent_is_left_to_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "login", lambda *_: Server(TimeoutError("timed out")))
    found = redis_server.silent(fake_system())
    assert found.evidence == "no answer within 1 s: timed out"
    assert found.fix is None


def test_script_that_blocks_redis_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(redis_client.Refused("BUSY Redis is busy running a script."))
    monkeypatch.setattr(redis_server, "login", lambda *_: server)
    found = redis_server.silent(fake_system())
    server.error = None
    found.fix()
    assert server.asked[-1] == ("SCRIPT", "KILL")
    assert redis_server.silent(fake_system()) is None


def test_write_that_failed_is_tried_again() -> None:
    system = fake_system()
    system.info = dict.fromkeys(redis_server.STATUSES.values(), "ok")
    assert redis_server.unwritten(system) is None
    system.info["rdb_last_bgsave_status"] = "err"
    found = redis_server.unwritten(system)
    assert found.evidence == "the last try failed: the snapshot"
    found.fix()
    assert system.asked == ["BGSAVE SCHEDULE", "BGREWRITEAOF"]
