"""Redis' users: what each may do, exactly, by the server's own word."""

from __future__ import annotations

import pytest

from tests.helpers.harness import in_app
from tests.helpers.redis_users import USERS, all_commands, allowed, ask, password_of, runnable
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

# Redis lets everybody say who he is, and goodbye.
ANYONE = {"auth", "hello", "quit", "reset"}
CLIENT = {"ping", "client|setname", "client|setinfo", "client|no-touch"}

COMMANDS = {
    "celery": CLIENT
    | {"llen", "lpush", "rpush", "rpop", "brpop", "blmove", "exists", "del"}
    | {"sadd", "srem", "smembers", "hset", "hget", "hdel"}
    | {"zadd", "zrem", "zcount", "zrange", "zrangebyscore"}
    | {"zrevrangebyscore", "time"}
    | {"get", "mget", "set", "setex", "incrby", "expire", "pexpire", "sismember"}
    | {"multi", "exec", "watch", "unwatch"}
    | {"eval", "evalsha", "script|load", "script|exists"}
    | {"publish", "subscribe", "unsubscribe", "psubscribe", "punsubscribe"}
    | {"hgetall", "hscan", "hmget", "hexists", "hvals", "pubsub|numsub"},
    "flower": CLIENT
    | {"llen", "get", "brpop", "del", "sadd", "srem", "multi", "exec", "publish", "psubscribe"}
    | {"set", "zrevrangebyscore", "zrange", "evalsha", "script|load", "script|exists"}
    | {"punsubscribe", "zadd", "zrem", "zrangebyscore", "time", "exists", "pexpire"},
    "backup": {"ping", "info", "lastsave", "bgsave", "sync", "replconf"},
    "monitor": {"ping", "select", "info", "dbsize", "lastsave", "scan", "exists", "type", "ttl"}
    | {"pttl", "llen", "hlen", "scard", "zcard", "memory|usage", "memory|stats", "memory|doctor"}
    | {"pubsub|channels"}
    | {"client|list", "config|get", "acl|whoami", "acl|log", "slowlog|get", "slowlog|len"}
    | {"latency|latest", "latency|history", "latency|doctor"},
}

UUID = "f0a95482-9d21-488b-9216-4915f8e12df5"

# Key, and how celery and flower reach it. Who only measures reads all, who copies none.
KEYS = {
    "celery": ("rw", "r"),
    "celery\x06\x163": ("rw", "r"),
    "unacked": ("rw", ""),
    "unacked_index": ("rw", "r"),
    "unacked_mutex": ("rw", "rw"),
    "unacked_owner": ("rw", ""),
    "set-aside": ("rw", ""),
    "celery-pi.revoked": ("rw", ""),
    "celery-pi.revoked-stamps": ("rw", ""),
    "_kombu.binding.celery": ("rw", ""),
    "_kombu.binding.celeryev": ("rw", "rw"),
    "_kombu.binding.celery.pidbox": ("rw", "rw"),
    "_kombu.binding_deadlines": ("rw", "rw"),
    "_kombu.binding_permanent.celery": ("rw", ""),
    "_kombu.binding_permanent.celeryev": ("rw", "rw"),
    "_kombu.binding.reply.celery.pidbox": ("rw", "rw"),
    f"celery-task-meta-{UUID}": ("rw", "r"),
    f"celery-taskset-meta-{UUID}.j": ("rw", ""),
    f"celeryev.{UUID}": ("rw", "rw"),
    f"{UUID}.reply.celery.pidbox": ("rw", "rw"),
    f"{UUID}.reply.celery.pidbox\x06\x169": ("rw", "rw"),
    "celery@raspberrypi.celery.pidbox": ("rw", ""),
    "celery-ocr@raspberrypi.celery.pidbox": ("rw", ""),
    "celery2": ("", ""),
    "ocr": ("", ""),
    "cache:1": ("", ""),
    "birds:celery": ("", ""),
    "birds:unacked_mutex": ("", ""),
    f"birds:celery-task-meta-{UUID}": ("", ""),
    f"birds:{UUID}.reply.celery.pidbox": ("", ""),
    "birds:celery@raspberrypi.celery.pidbox": ("", ""),
}

# Messages, and who but admin may send or get them.
MESSAGES = {
    "publish /0.celery.pidbox x": {"celery", "flower"},
    "publish /0.celeryev/task.multi x": {"celery"},
    f"publish celery-task-meta-{UUID} x": {"celery"},
    f"publish celery-taskset-meta-{UUID} x": {"celery"},
    "publish /1.celery.pidbox x": set(),
    "publish birds:/0.celery.pidbox x": set(),
    "psubscribe /0.celery.pidbox": {"celery"},
    "psubscribe /0.celeryev/worker.*": {"celery"},
    "psubscribe /0.celeryev/*": {"celery", "flower"},
    "psubscribe birds:/0.celeryev/*": set(),
    "psubscribe *": set(),
    f"subscribe celery-task-meta-{UUID}": {"celery"},
    "subscribe celery-pi.alive.me": {"celery"},
    f"subscribe birds:celery-task-meta-{UUID}": set(),
}

DESTRUCTIVE = (
    *("flushall", "flushdb", "shutdown nosave", "debug sleep 0", "save", "bgrewriteaof"),
    *("config set maxmemory 1gb", "config rewrite", "config resetstat", "replicaof no one"),
    *("acl setuser celery +@all", "acl save", "script flush", "function flush", "swapdb 0 1"),
    *("client kill type normal", "client pause 1", "module list", "monitor", "keys *"),
)

# DEBUG is closed to everybody before the server asks who wants it.
REFUSALS = ("NoPermissionError: ", "ResponseError: DEBUG command not allowed")


@pytest.fixture(scope="module")
def commands(pi: VirtualPi) -> dict[str, list[str]]:
    """Words to try each of the server's commands with."""
    return {command.name: command.words for command in all_commands(pi)}


@pytest.mark.parametrize("user", COMMANDS)
def test_user_runs_exactly_his_commands(
    pi: VirtualPi, commands: dict[str, list[str]], user: str
) -> None:
    verdicts = runnable(pi, user, list(commands.values()))
    assert {name for name, may in zip(commands, verdicts, strict=True) if may} == (
        COMMANDS[user] | ANYONE
    )


def test_admin_runs_every_command(pi: VirtualPi, commands: dict[str, list[str]]) -> None:
    assert len(commands) > 300
    assert all(runnable(pi, "admin", list(commands.values())))


def test_user_that_replays_the_log_only_writes(
    pi: VirtualPi, commands: dict[str, list[str]]
) -> None:
    """Redis replays its append-only file as `default`, whom nobody can be."""
    (writes,) = ask(pi, [["acl", "cat", "write"]])
    verdicts = runnable(pi, "default", list(commands.values()))
    assert {name for name, may in zip(commands, verdicts, strict=True) if may} == (
        {*writes, "select"} & set(commands) | ANYONE
    )


def test_there_are_no_other_users(pi: VirtualPi) -> None:
    assert set(ask(pi, [["acl", "users"]])[0]) == {"default", *USERS}


@pytest.mark.parametrize("user", USERS)
def test_user_reaches_exactly_his_keys(pi: VirtualPi, user: str) -> None:
    others = {"backup": "", "monitor": "r", "admin": "rw"}
    expected = {
        key: others.get(user, celery if user == "celery" else flower)
        for key, (celery, flower) in KEYS.items()
    }
    assert reach(pi, user, list(KEYS)) == expected


def reach(pi: VirtualPi, user: str, keys: list[str]) -> dict[str, str]:
    """How the user reaches each key: r, w, both or not at all."""
    reads = allowed(pi, user, [["llen", key] for key in keys])
    writes = allowed(pi, user, [["del", key] for key in keys])
    return {
        key: "r" * read + "w" * write for key, read, write in zip(keys, reads, writes, strict=True)
    }


def test_messages_are_sent_and_read_by_exactly_their_users(pi: VirtualPi) -> None:
    words = [message.split() for message in MESSAGES]
    verdicts = {user: allowed(pi, user, words) for user in USERS}
    found = {
        message: {user for user in USERS if verdicts[user][place]}
        for place, message in enumerate(MESSAGES)
    }
    assert found == {message: users | {"admin"} for message, users in MESSAGES.items()}


@pytest.mark.parametrize("user", ["celery", "flower", "backup", "monitor"])
def test_server_refuses_what_destroys_or_spies(pi: VirtualPi, user: str) -> None:
    commands = [*DESTRUCTIVE, *(["config get maxmemory"] if user != "monitor" else [])]
    replies = ask(pi, [command.split() for command in commands], user)
    told = zip(commands, replies, strict=True)
    assert not [pair for pair in told if not str(pair[1]).startswith(REFUSALS)]


def test_nobody_is_the_default_user(pi: VirtualPi) -> None:
    password = password_of(pi, "celery")
    socket = ("redis-cli", "-s", "/run/redis-celery/redis.sock")
    assert "NOAUTH" in pi.run(*socket, "ping", check=False).stdout
    for words in (["auth", password], ["auth", "default", password], ["auth", "default", ""]):
        assert "WRONGPASS" in pi.run(*socket, *words, check=False).stdout


def test_url_without_a_user_is_refused(pi: VirtualPi) -> None:
    code = (
        "import redis; from observations_nids import config;"
        "url = config.celery.broker_url.replace('//celery:', '//:');"
        "\ntry: redis.Redis.from_url(url).ping()"
        "\nexcept redis.AuthenticationError as error: print(error)"
    )
    assert "invalid username-password pair or user is disabled" in in_app(pi, code)
