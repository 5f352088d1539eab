"""`celery-pi audit`: green as deployed, red for each thing that is broken, green by a deploy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.harness import APP, deploy, pids, redis, run, wait_for
from tests.helpers.status_output import CALM, ask, names, table
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

SECRETS = "/etc/celery-pi/secrets"
BACKUPS, NOTED = "/var/backups/celery-pi", "/var/lib/celery-pi"
BEAT = "/etc/systemd/system/celery-beat.service"
GUARD = "/usr/local/lib/celery-pi/guard"
SOCKET = "/run/redis-celery/redis.sock"

# What is broken by hand, and the checks that must see it.
BROKEN = {
    f"chmod 644 {APP}/.env": {"the app's .env"},
    f"chmod 755 {SECRETS}; chmod 644 {SECRETS}/redis_admin_password": {SECRETS, "Stored passwords"},
    "chmod 644 /etc/celery-pi/redis.acl": {"/etc/celery-pi/redis.acl"},
    "chmod 644 /etc/celery-pi/flower.env": {"/etc/celery-pi/flower.env"},
    "chmod 644 /etc/nginx/celery-pi.htpasswd": {"/etc/nginx/celery-pi.htpasswd"},
    "sed -i 's/^bind .*/bind */; s/^protected-mode .*/protected-mode no/' "
    "/etc/celery-pi/redis.conf": {"Addresses", "Protected mode", "Listening TCP sockets"},
    f"sed -i 's/^User=.*/User=root/' {BEAT}": {"Users of the units", "Programs of root's units"},
    f"sed -i 's,^ExecStart=,EnvironmentFile={APP}/.env\\n&,' {BEAT}": {
        "Environment of root's commands"
    },
    "sed -i /privileges.py/d /etc/logrotate.d/celery-pi": {"Rotation of logs"},
    "echo '# by hand' >>/usr/local/lib/celery-pi/tools/celery_pi_tools/deploys.py": {"Drift"},
    f"echo '[Service]' >{BEAT}.d/sandbox.conf": {"Sandboxes"},
    f"printf guessed >{SECRETS}/redis_backup_password": {"Length of passwords"},
    "ufw disable": {"Firewall"},
    "systemctl stop fail2ban": {"Bans"},
    "systemctl stop apt-daily-upgrade.timer": {"By themselves"},
    "systemctl stop celery-pi-drill.timer": {"Timers"},
    f"chmod 755 {BACKUPS}": {"Access"},
    f"rm -r {APP}/venv/lib/python3*/site-packages/flower-*.dist-info": {"Packages of the app"},
}
# The same in the running server.
BROKEN_IN_REDIS = {
    "acl setuser default on nopass": {"Default user"},
    "acl setuser stranger on nopass": {"Users of Redis"},
    "config set appendonly no": {"Append-only file"},
    "config set maxmemory-policy allkeys-lru": {"What goes when memory is full"},
}
# What others have opened: no deploy takes it away.
OPENED = {
    f"mkdir /etc/cron.d; echo '0 0 1 1 * root {APP}/manage.py' >/etc/cron.d/way": {"Cron"},
    "echo 'www-data ALL=(ALL) /bin/true' >/etc/sudoers.d/way; chmod 440 /etc/sudoers.d/way": {
        "Rules of sudo"
    },
    f"install -m 4755 /bin/true {APP}/media/way": {"Files that change the user"},
    "groupadd docker; gpasswd -a www-data docker": {"Groups of the app's user"},
    f"cp -p {APP}/.env /root/way; echo LD_PRELOAD= >>{APP}/.env": {"Variables that load code"},
    "touch /usr/local/lib/celery-pi/way.py": {"Strangers among root's programs"},
    f"systemd-run --quiet --unit=way -p RemainAfterExit=yes -p EnvironmentFile={APP}/.env "
    f"-p WorkingDirectory={APP} /bin/true": {
        *("Environment of root's commands", "Programs of root's units"),
    },
}
CLOSE = f"""
rm -r /etc/cron.d /etc/sudoers.d/way {APP}/media/way /usr/local/lib/celery-pi/way.py
groupdel docker
mv /root/way {APP}/.env
systemctl stop way
"""
UNDO = "ufw delete allow 9999/udp"
OF_TODAY = {"Security fixes"}  # which may have come out since the image was built
# The app is nginx' user, and pi root without a password, as Raspberry Pi OS has it.
SHARED = {"User of the app", "Rules of sudo"}
PTRACE = "Memory of other processes (ptrace)"  # told where the host's kernel has no Yama
RESTART = ("systemctl", "restart", "redis-server", "celery-beat")


def expected(pi: VirtualPi) -> set[str]:
    """What a machine is warned of that is as deployed."""
    yama = pi.run("test", "-e", "/proc/sys/kernel/yama/ptrace_scope", check=False)
    return SHARED | ({PTRACE} if yama.returncode else set())


@pytest.fixture(scope="module", autouse=True)
def _as_deployed(pi: VirtualPi) -> Iterator[None]:
    pi.run(*CALM)
    pi.run("sh", "-c", "celery-pi backup && celery-pi drill")
    told = ask(pi, "audit")
    assert (told.status, told.names("wrong", "warn") - OF_TODAY) == (0, expected(pi))
    yield
    told = ask(pi, "audit")
    assert (told.status, told.names("wrong", "warn") - OF_TODAY) == (0, expected(pi))
    pi.run("sh", "-c", f"rm {BACKUPS}/* {NOTED}/backup.json {NOTED}/drill.json")
    wait_for("all is well", lambda: ask(pi).status == 0, 90)


def test_table_says_the_same_as_the_json(pi: VirtualPi) -> None:
    shown = table(pi, "audit")
    told = ask(pi, "audit")
    assert names(shown.text) == told.names("ok", "warn")
    assert (shown.text.splitlines()[-1] == "all is well") is (told.names("warn") == set())
    assert run("make", "audit", f"VIRTUAL_PI={pi.name}").status == 0


def test_whatever_is_broken_is_found_and_mended_by_a_deploy(pi: VirtualPi) -> None:
    for command in BROKEN:
        pi.run("sh", "-c", command)
    pi.run("systemctl", "daemon-reload")
    pi.run(*RESTART)
    for command in BROKEN_IN_REDIS:
        redis(pi, *command.split())
    told = ask(pi, "audit")
    assert told.status == 1
    assert told.names("wrong") == {
        name for seen in (BROKEN | BROKEN_IN_REDIS).values() for name in seen
    }
    assert told["Listening TCP sockets"]["ports"] == [6379]
    assert told["Users of the units"]["users"]["celery-beat"] == "root"
    assert deploy(pi).status == 0
    told = ask(pi, "audit")
    assert told.names("wrong") == set()
    assert deploy(pi).changed == set()
    pids(pi)
    # Beat was root without a sandbox, so that Python could write there.
    pi.run("find", GUARD, "-name", "__pycache__", "-exec", "rm", "-r", "{}", "+")


def test_way_to_root_that_was_opened_is_named(pi: VirtualPi) -> None:
    for command in OPENED:
        pi.run("sh", "-c", command)
    told = ask(pi, "audit")
    pi.run("sh", "-e", "-c", CLOSE)
    assert told.names("wrong") == {name for seen in OPENED.values() for name in seen}
    assert ask(pi, "audit").status == 0


FOUND = ("Listening TCP sockets", "In command lines")


def test_stranger_that_listens_or_shows_a_password_is_named(pi: VirtualPi) -> None:
    server = ("systemd-run", "--quiet", "--unit=stranger", "python3", "-m", "http.server", "8000")
    pi.run(*server)
    hang = f"exec python3 -c 'import time; time.sleep(3600)' $(cat {SECRETS}/redis_backup_password)"
    pi.run("systemd-run", "--quiet", "--unit=leak", "sh", "-c", hang)
    wait_for("it listens", lambda: pi.run("ss", "-Htln", "sport = :8000").stdout)
    wait_for(
        "both are found, and what the stranger serves",
        lambda: ask(pi, "audit").names("wrong") == {*FOUND, "Files of the app over HTTP"},
    )
    told = ask(pi, "audit")
    (leaking,) = told["In command lines"]["processes"]
    pid = pi.run("systemctl", "show", "-P", "MainPID", "leak").stdout.strip()
    pi.run("systemctl", "stop", "stranger", "leak")
    assert leaking == f"python3 {pid}"
    assert told["Listening TCP sockets"]["ports"] == [8000]


def test_weak_password_is_named_and_not_shown(pi: VirtualPi) -> None:
    file = f"{SECRETS}/redis_backup_password"
    pi.run("sh", "-c", f"cp -p {file} /root/kept; printf 1234567x >{file}")
    told, shown = ask(pi, "audit"), table(pi, "audit")
    pi.run("mv", "/root/kept", file)
    assert told.names("wrong") == {"Length of passwords"}
    assert told["Length of passwords"]["weak"] == ["redis_backup_password"]
    assert "1234567x" not in shown.text


def test_what_a_person_has_to_mend_is_named(pi: VirtualPi) -> None:
    pi.run("sh", "-c", f"mv {BACKUPS} /root; apt-mark hold nginx; ufw allow 9999/udp")
    told = ask(pi, "audit")
    pi.run("sh", "-c", f"mv /root/celery-pi {BACKUPS}; apt-mark unhold nginx; {UNDO}")
    assert told.status == 0
    by_hand = {"Newest", "State of the packages", "Firewall"}
    assert told.names("warn") - OF_TODAY == by_hand | expected(pi)
    assert told["State of the packages"]["held"] == ["nginx"]
    assert "9999/udp" in told["Firewall"]["open"]


def test_failed_login_to_redis_is_counted(pi: VirtualPi) -> None:
    # On a new machine, tries within ten minutes of the first password would not count.
    pi.run("sh", "-c", f"touch -d '1 hour ago' {SECRETS}/redis_*_password")
    for command in ("auth celery wrong", "auth my-password x", "auth celery wrong"):
        pi.run("redis-cli", "-s", SOCKET, *command.split(), check=False)
    told, shown = ask(pi, "audit"), table(pi, "audit")
    redis(pi, "acl", "log", "reset")
    assert (told.status, told["Failed logins"]) == (0, {"failed": {"celery": 2, "another name": 1}})
    assert "3 tries within a day: 2 as celery, 1 as another name" in shown.text
    assert "my-password" not in shown.text
    assert "Failed logins" in ask(pi, "audit").names("ok")


def test_audit_of_a_redis_that_is_down_ends_in_order(pi: VirtualPi) -> None:
    pi.run("systemctl", "stop", "redis-server")
    told = ask(pi, "audit")
    pi.run("systemctl", "start", "redis-server")
    assert told.status == 1
    assert told.names("wrong") >= {"Default user", "Users of Redis", "Protected mode", "Addresses"}
    assert {"the app's .env", "Sandboxes", "Users of the units"} <= told.names("ok")
