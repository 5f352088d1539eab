"""Redis seen from outside: by the network, by systemd, by the socket."""

from __future__ import annotations

import json

import pytest

from tests.helpers.harness import (
    deploy,
    exposure,
    in_app,
    pids,
    plan,
    prove,
    pyinfra,
    redis,
    send,
    wait_for,
)
from tests.helpers.redis_users import ask as ask_redis
from tests.helpers.scan import open_ports
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

RUNTIME = "/run/systemd/system/redis-server.service.d"
WEAKER = b"[Service]\nPrivateDevices=no\nPrivateUsers=no\n"
SOCKET = "/run/redis-celery/redis.sock"


def test_no_port_of_redis_is_found_from_another_machine(
    pi: VirtualPi, fresh_native_pi: VirtualPi
) -> None:
    """Nor would it be without the firewall."""

    def scan() -> set[int]:
        return open_ports(fresh_native_pi, pi.address)

    pi.run("ufw", "disable")
    assert scan() == {22, 80, 443}
    listener = (
        f"import socket, time; s = socket.create_server(('{pi.address}', 6379)); time.sleep(600)"
    )
    pi.run("systemd-run", "--unit=careless", "--quiet", "python3", "-c", listener)
    wait_for("it listens", lambda: pi.run("ss", "-Htln", f"src {pi.address}:6379").stdout)
    assert scan() == {22, 80, 443, 6379}, "the scan sees nothing"
    pi.run("systemctl", "stop", "careless")
    pi.run("ufw", "--force", "enable")


def test_live_change_keeps_the_server_and_outlives_it(pi: VirtualPi) -> None:
    before = pids(pi)
    wanted = {"redis_maxmemory": "64mb", "redis_maxmemory_policy": "noeviction"}
    planned = plan(pi, **wanted).planned
    assert "Redis | Change the running server" in planned
    assert "Redis | Run" in planned  # systemd reads the limit of its memory, and restarts nothing
    assert deploy(pi, **wanted).changed == planned
    assert pids(pi) == before
    for _ in range(2):
        assert redis(pi, "config", "get", "maxmemory").split()[1] == str(64 * 2**20)
        assert redis(pi, "config", "get", "maxmemory-policy").split()[1] == "noeviction"
        pi.run("systemctl", "restart", "redis-server")
    assert deploy(pi, **wanted).changed == set()


def test_plan_says_what_is_set_live_and_what_restarts(pi: VirtualPi) -> None:
    shown = pyinfra(
        pi, "--dry", "--diff", "--data", "redis_maxmemory=32mb", "inventory.py", "deploy.py"
    ).output
    assert f"Will set maxmemory {32 * 2**20} without a restart" in shown
    assert "Will restart redis-server" not in shown
    shown = pyinfra(
        pi, "--dry", "--diff", "--data", "redis_port=7000", "inventory.py", "deploy.py"
    ).output
    assert "Will restart redis-server.service: /etc/celery-pi/redis.conf will change" in shown


def test_memory_limit_is_a_share_of_the_memory(pi: VirtualPi) -> None:
    assert deploy(pi).status == 0
    total = int(pi.run("awk", "/^MemTotal:/ { print $2 }", "/proc/meminfo").stdout) // 1024
    limit = int(redis(pi, "config", "get", "maxmemory").split()[1]) // 2**20
    assert limit == total // 4


def test_sandbox_leaves_redis_next_to_nothing(pi: VirtualPi) -> None:
    assert exposure(pi, "redis-server") <= 0.9
    pi.run("sh", "-c", f"mkdir -p {RUNTIME}; cat >{RUNTIME}/weaker.conf", input=WEAKER)
    pi.run("systemctl", "daemon-reload")
    assert exposure(pi, "redis-server") > 0.9
    pi.run("rm", "-r", RUNTIME)
    pi.run("systemctl", "daemon-reload")


def test_redis_saves_inside_its_sandbox(pi: VirtualPi) -> None:
    wait_for("it saves", lambda: redis(pi, "save") == "OK")  # not while it does so by itself
    assert "Background" in redis(pi, "bgrewriteaof")
    assert pi.run("stat", "-c", "%U %a", "/var/lib/redis/dump.rdb").stdout.split() == [
        "redis",
        "600",
    ]


def test_socket_replaces_every_port(pi: VirtualPi) -> None:
    planned = plan(pi, redis_socket=True).planned
    assert deploy(pi, redis_socket=True).changed == planned
    main = pids(pi)["redis-server"]
    listening = pi.run("ss", "-Hltnp").stdout
    assert f"pid={main}," not in listening
    assert "SUCCESS" in prove(pi)
    assert send(pi, "add", 40, 2) == "42"
    assert "redis+socket" in in_app(
        pi, "from observations_nids.celery import app; print(app.conf.broker_url.split(':')[0])"
    )
    assert exposure(pi, "redis-server") <= 0.4
    assert deploy(pi, redis_socket=True).changed == set()


def test_socket_is_closed_to_those_who_are_not_of_the_app(pi: VirtualPi) -> None:
    assert deploy(pi, redis_socket=True).status == 0
    assert "Permission denied" in knock(pi, "pi")
    assert "NOAUTH" in knock(pi, "www-data")
    assert deploy(pi).status == 0
    assert "Permission denied" in knock(pi, "pi")
    assert "NOAUTH" in knock(pi, "www-data"), "the services need it whatever the site uses"
    assert "NOAUTH" in pi.run("redis-cli", "dbsize", check=False).stdout
    assert deploy(pi).changed == set()


def knock(pi: VirtualPi, user: str) -> str:
    said = pi.run("redis-cli", "-s", SOCKET, "dbsize", user=user, check=False)
    return said.stdout + said.stderr


def test_app_with_a_prefix_keeps_to_its_own_keys(pi: VirtualPi) -> None:
    theirs = {"redis_database": 2, "redis_key_prefix": "birds:"}
    assert deploy(pi, **theirs).status == 0
    redis(pi, "acl", "log", "reset")  # what the old worker tried before it was stopped
    assert "SUCCESS" in prove(pi)
    assert send(pi, "add", 20, 3) == "23"
    keys = redis(pi, "-n", "2", "--scan").splitlines()
    assert keys
    assert all(key.startswith("birds:") for key in keys)
    assert redis(pi, "acl", "log") == ""
    entry = [json.dumps({"headers": {"id": "1", "task": "count"}}), ["birds:celery"], 0]
    redis(pi, "-n", "2", "lpush", "birds:set-aside", json.dumps(entry))
    assert "count[1]" in pi.run("celery-pi", "set-aside", check=False).stdout
    redis(pi, "-n", "2", "del", "birds:set-aside")
    assert deploy(pi, **theirs).changed == set()
    assert deploy(pi).status == 0
    assert "SUCCESS" in prove(pi)


def test_stig_checks_have_no_failure(pi: VirtualPi) -> None:
    """The facts behind redis-stig-audit's checks, which docs/decisions/scanners.md lists."""
    names = ("protected-mode", "bind", "tls-port", "appendonly", "aclfile", "loglevel", "logfile")
    [shown] = ask_redis(pi, [["config", "get", *names]])
    assert dict(zip(shown[::2], shown[1::2], strict=True)) == {
        "protected-mode": "yes",
        "bind": "127.0.0.1 -::1",
        "tls-port": "0",
        "appendonly": "yes",
        "aclfile": "/etc/celery-pi/redis.acl",
        "loglevel": "notice",
        "logfile": "",
    }
    users = dict(line.split()[1:3] for line in redis(pi, "acl", "list").splitlines())
    assert users.pop("default") == "off"
    assert users == dict.fromkeys(("celery", "flower", "backup", "monitor", "admin"), "on")
    assert "nopass" not in redis(pi, "acl", "list")
    assert "rdb_last_bgsave_status:ok" in redis(pi, "info", "persistence")
