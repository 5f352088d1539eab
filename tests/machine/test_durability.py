"""Redis starts by itself after a power cut, with all but what the cut damaged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.harness import UNITS, deploy, pids, prove, redis
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.debian12

AOF = "/var/lib/redis/appendonlydir"
NEWEST = f"$(ls -t {AOF}/*.incr.aof | head -n 1)"
KEPT = 1000


@pytest.fixture(autouse=True)
def queue(pi: VirtualPi) -> Iterator[None]:
    """A thousand tasks in a queue that nobody consumes."""
    pi.run("systemctl", "stop", "celery-worker", "celery-beat")
    redis(pi, "del", "kept")
    redis(pi, "eval", f"for i=1,{KEPT} do redis.call('rpush','kept',i) end", "0")
    yield
    redis(pi, "del", "kept")
    pi.run("systemctl", "start", "celery-worker", "celery-beat")


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        ("dd if=/dev/zero bs=4096 count=3 2>/dev/null >>{file}", 0),
        (r"printf '*3\r\n$5\r\nrpush\r\n$4\r\nkept\r\n$4\r\n1' >>{file}", 0),
        ("truncate -s -9 {file}", 1),
        ("truncate -s -9 {file}; dd if=/dev/zero bs=512 count=1 2>/dev/null >>{file}", 1),
    ],
    ids=["zeros", "torn record", "cut off", "cut off and zeros"],
)
def test_damaged_end_is_cut_off_and_told(pi: VirtualPi, damage: str, lost: int) -> None:
    redis(pi, "rpush", "kept", "last")
    power_cut(pi, damage)
    assert redis(pi, "llen", "kept") == str(KEPT + 1 - lost)
    assert redis(pi, "lindex", "kept", str(KEPT - 1)) == str(KEPT)
    redis(pi, "rpush", "kept", "after")
    pi.run("systemctl", "restart", "redis-server")
    assert redis(pi, "lindex", "kept", "-1") == "after"


def test_what_was_cut_off_is_told_in_the_journal(pi: VirtualPi) -> None:
    power_cut(pi, "dd if=/dev/zero bs=4096 count=3 2>/dev/null >>{file}")
    said = pi.run("journalctl", "-q", "-o", "cat", "-u", "redis-server").stdout
    assert "celery-pi: cut 12288 bytes of " in said
    assert pi.run("stat", "-c", "%U %s", "/var/lib/redis/damaged.aof").stdout.split()[0] == "redis"


def test_whole_file_is_left_alone(pi: VirtualPi) -> None:
    pi.run("sh", "-c", "rm -f /var/lib/redis/damaged.*")
    power_cut(pi, "true")
    assert redis(pi, "llen", "kept") == str(KEPT)
    assert pi.run("test", "-e", "/var/lib/redis/damaged.aof", check=False).returncode == 1


def test_transaction_survives_a_restart(pi: VirtualPi) -> None:
    """Redis up to 8.0 replays it with the rights of `default`, and silently drops what he lacks."""
    redis(pi, "eval", "redis.call('del','kept'); redis.call('rpush','kept','a','b')", "0")
    pi.run("systemctl", "restart", "redis-server")
    assert redis(pi, "lrange", "kept", "0", "-1").split() == ["a", "b"]


def test_data_of_a_server_that_had_only_snapshots_is_adopted(pi: VirtualPi) -> None:
    """A Pi set up from the guide has an RDB file and no append-only file."""
    pi.run("systemctl", "stop", "celery-worker", "celery-beat", "redis-server")
    make = (
        "cd /var/lib/redis && rm -rf appendonlydir dump.rdb;"
        "redis-server --port 0 --unixsocket /tmp/old --daemonize yes --dir $PWD >/dev/null;"
        "until [ -S /tmp/old ]; do sleep 0.1; done;"
        "redis-cli -s /tmp/old rpush celery-old a b c >/dev/null;"
        "redis-cli -s /tmp/old save >/dev/null;"
        "redis-cli -s /tmp/old shutdown nosave; chown redis:redis dump.rdb"
    )
    pi.run("sh", "-c", make)
    assert deploy(pi).status == 0
    assert redis(pi, "lrange", "celery-old", "0", "-1").split() == ["a", "b", "c"]
    redis(pi, "rpush", "celery-old", "d")
    pi.run("systemctl", "restart", "redis-server")
    assert redis(pi, "llen", "celery-old") == "4"


def test_data_of_a_running_server_that_saves_nothing_is_kept(pi: VirtualPi) -> None:
    """The owner's own Redis: a password, CONFIG under another name or not, no snapshot yet."""
    conf = "/etc/redis/redis.conf"
    for renamed in ("", "rename-command CONFIG hidden\n"):
        theirs = f'requirepass "theirs 1"\nsave ""\ndir /var/lib/redis\n{renamed}'
        pi.run("systemctl", "stop", "celery-worker", "celery-beat", "redis-server")
        pi.run("sh", "-c", f"mv {conf} /root/conf; cat >{conf}", input=theirs.encode())
        pi.run("sh", "-c", f"chmod 644 {conf}; rm -rf /var/lib/redis/* /var/lib/celery-pi/started")
        pi.run("sh", "-c", "rm -r /etc/systemd/system/redis-server.service.d /etc/celery-pi/redis*")
        pi.run("systemctl", "daemon-reload")
        pi.run("systemctl", "start", "redis-server")
        pi.run("redis-cli", "-a", "theirs 1", "rpush", "celery-old", "a", "b")
        done = deploy(pi)
        assert {"Redis | Keep the data of a server that runs", "Redis | Run"} <= done.changed
        assert redis(pi, "lrange", "celery-old", "0", "-1").split() == ["a", "b"]
        pi.run("mv", "/root/conf", conf)


def test_all_is_well_afterwards(pi: VirtualPi) -> None:
    pi.run("systemctl", "start", "celery-worker", "celery-beat")
    assert set(pids(pi)) == set(UNITS)
    assert "SUCCESS" in prove(pi)
    # No unit of the site's is found here, so the owner has to say that none knows the old password.
    assert "Old passwords | Take them off the list" in deploy(pi, app_units="").changed
    told = pi.run("redis-cli", "-a", "theirs 1", "ping", check=False)
    assert "WRONGPASS" in told.stdout + told.stderr
    assert deploy(pi).status == 0
    assert deploy(pi).changed == set()


def power_cut(pi: VirtualPi, damage: str) -> None:
    """Leave on the disk what a power cut leaves, then start as a boot does."""
    pi.run("systemctl", "stop", "redis-server")
    pi.run("sh", "-c", damage.format(file=NEWEST))
    pi.run("systemctl", "start", "redis-server", timeout=60)
