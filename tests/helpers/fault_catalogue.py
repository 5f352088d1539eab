"""Problems that are made on a healthy machine, for `celery-pi doctor` to find."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from tests.helpers.harness import APP

CLI = "/usr/local/lib/celery-pi/redis-cli admin"
CONF, LIVE = "/etc/celery-pi/redis.conf", "/etc/celery-pi/redis-live.conf"
SETTINGS = "/etc/celery-pi/settings.json"
SITE = "/etc/celery-pi/site.pem"
JOURNALD = "/etc/systemd/journald.conf.d/celery-pi.conf"
SYSCTL = "/etc/sysctl.d/60-celery-pi.conf"
BEAT = "/etc/systemd/system/celery-beat.service.d/zz-doctor.conf"
TASK = '{"body":"","headers":{"task":"a"}}'
# A deploy takes a file for changed that was written since a service was started.
KEPT = "/root/doctor-kept"


@dataclass(frozen=True)
class Injected:
    """Names of what the doctor must find, how it is made by hand, and what is tidied up.

    `fixed` says whether the doctor repairs it; else tidying up does.
    """

    names: str | tuple[str, ...]
    make: str
    tidy: str = "true"
    fixed: bool = True
    saw: str = ""


def explained(name: str, make: str, tidy: str, saw: str = "") -> Injected:
    return Injected(name, make, tidy, fixed=False, saw=saw)


def until(condition: str) -> str:
    """Shell that waits until a command succeeds, for half a minute at most."""
    return f"timeout 30 sh -c {quote(f'until {condition}; do sleep 0.1; done')}"


def keeping(file: str, command: str) -> str:
    """Shell that changes a file whose time is set back later."""
    return f"touch -r {file} {KEPT}; {command}"


def at_its_time(file: str) -> str:
    return f"touch -r {KEPT} {file}; rm {KEPT}"


def edited(file: str, *expressions: str) -> str:
    return keeping(file, f"sed -i {' '.join(f'-e {each!r}' for each in expressions)} {file}")


OWNERS = f"""
chmod 644 {APP}/.env
chown root:root /etc/celery-pi/redis.acl
chmod 700 /run/redis-celery
"""
HALF = """
mkdir -p /root/p/DEBIAN
cat >/root/p/DEBIAN/control <<END
Package: celery-pi-doctor
Version: 1
Architecture: all
Maintainer: x <x@example.com>
Description: x
END
dpkg-deb --build /root/p /root/p.deb
dpkg --unpack /root/p.deb
"""
ENDING = f"""
cp -p {SITE} {KEPT}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 5 -subj /CN=x \\
  -keyout /root/key -out /root/certificate
cat /root/key /root/certificate >{SITE}
rm /root/key /root/certificate
"""
TOLD = f"""
{CLI} config set appendonly no
{CLI} config set maxmemory-policy allkeys-lru
{CLI} config set port 7000
"""

QUICK = [
    Injected(
        "A unit file is not loaded",
        f"echo '[Unit]' >{BEAT}",
        f"rm {BEAT}; systemctl daemon-reload",
    ),
    Injected(
        "A file has another owner or mode",
        OWNERS,
        saw=f"{APP}/.env is 644 www-data:www-data, not 600",
    ),
    Injected(
        "The app cannot write",
        f"chown pi:pi {APP}/media",
        saw=f"www-data cannot write {APP}/media",
    ),
    Injected(
        "A package is half installed",
        HALF,
        "dpkg --purge celery-pi-doctor; rm -r /root/p /root/p.deb",
        saw="not fully installed: celery-pi-doctor",
    ),
    Injected(
        "Redis was told other settings",
        TOLD,
        saw="port is 7000, not 6379; appendonly is no, not yes; maxmemory-policy is allkeys-lru",
    ),
    Injected(
        "Redis' files were changed",
        edited(CONF, "s/^port .*/port 7000/"),
        at_its_time(CONF),
        saw="port is 7000, not 6379",
    ),
    Injected(
        "Redis refuses a password",
        f"{CLI} acl setuser celery resetpass",
        f"{CLI} acl log reset",
        saw="it does not take the stored password of celery",
    ),
    Injected(
        "The app's .env leads elsewhere",
        edited(f"{APP}/.env", "s/celery:[^@]*@/celery:mistyped@/"),
        at_its_time(f"{APP}/.env"),
        saw="another password in CELERY_BROKER_URL",
    ),
    Injected(
        "The app's .env leads elsewhere",
        edited(f"{APP}/.env", "s/:6379/:7000/", "s,/0$,/5,"),
        at_its_time(f"{APP}/.env"),
        saw="another port and database in CELERY_BROKER_URL",
    ),
    Injected(
        "A PID file is stale",
        f"echo 4194303 >{APP}/celerybeat.pid; touch -d '1 hour ago' {APP}/celerybeat.pid",
    ),
    Injected(
        "A certificate ends soon",
        ENDING,
        f"mv {KEPT} {SITE}; systemctl reload nginx",
        saw=SITE,
    ),
]

OTHERS = ("redis-memory", "celery-beat", "celery-flower", "nginx", "fail2ban")
SERVICES = [
    Injected("A process is stopped", "systemctl kill --signal=STOP --kill-whom=main redis-server"),
    Injected("Redis is down", "systemctl stop redis-server"),
    Injected("Redis' socket is missing", "rm /run/redis-celery/redis.sock"),
    Injected("Redis' directory is missing", "rm -r /run/redis-celery"),
    Injected(
        "Redis does not answer",
        f"{CLI} config set busy-reply-threshold 200; "
        f"{CLI} eval 'while true do end' 0 >/dev/null 2>&1 & "
        + until(f"{CLI} ping 2>&1 | grep -q BUSY"),
        f"{CLI} config set busy-reply-threshold 5000",
        saw="BUSY",
    ),
    Injected(
        "Redis cannot write its data",
        f"chmod 550 /var/lib/redis; {CLI} bgsave; "
        + until(f"{CLI} info persistence | grep -q bgsave_status:err")
        + "; chmod 750 /var/lib/redis",
        saw="the snapshot",
    ),
    Injected("celery-worker is down", "systemctl stop celery-worker"),
    Injected(tuple(f"{unit} is down" for unit in OTHERS), f"systemctl stop {' '.join(OTHERS)}"),
    Injected(
        "The worker has another directory",
        f"cd {APP}; cp -a logs logs.new; mv logs logs.old; mv logs.new logs; rm -r logs.old",
        saw=f"{APP}/logs",
    ),
]

EXPLAINED = [
    # Who owns the app's directory may have put a directory of root's there.
    explained(
        "The app cannot write",
        f"chown root:root {APP}/media",
        f"chown www-data: {APP}/media",
        saw=f"www-data cannot write {APP}/media",
    ),
    explained(
        "The app cannot write",
        f"install -m 600 /dev/null {APP}/logs/django.log",
        f"rm {APP}/logs/django.log",
        saw=f"www-data cannot write {APP}/logs/django.log",
    ),
    explained(
        "A disk is full",
        f"mount -t tmpfs -o size=1m,uid=33,gid=33,mode=750 doctor {APP}/logs; "
        f"head -c 1000000 /dev/zero >{APP}/logs/fill",
        f"umount {APP}/logs",
        saw=f"{APP}/logs: ",
    ),
    explained(
        "A disk is read-only",
        f"mount -t tmpfs -o ro,uid=33,gid=33,mode=750 doctor {APP}/logs",
        f"umount {APP}/logs",
    ),
    explained(
        "The clock is wrong",
        keeping(SETTINGS, f"touch -d '3 days' {SETTINGS}"),
        at_its_time(SETTINGS),
        saw="it is 2 d 23 h behind",
    ),
    explained(
        "A package is held back",
        "apt-mark hold redis-server",
        "apt-mark unhold redis-server",
        saw="redis-server",
    ),
    explained(
        "Redis' port cannot be reached",
        "iptables -I INPUT -i lo -p tcp --dport 6379 -j DROP",
        "iptables -D INPUT -i lo -p tcp --dport 6379 -j DROP",
        saw="127.0.0.1:6379 cannot be reached",
    ),
    explained(
        "Something else has failed",
        "! systemd-run --quiet --unit=broken --wait false",
        "systemctl reset-failed broken",
        saw="broken.service",
    ),
    explained(
        "A second worker or Beat runs",
        "echo 'import time; time.sleep(600)' >/root/celery; systemd-run --quiet --unit=second "
        "python3 /root/celery -A observations_nids beat; "
        + until("pgrep -f '[p]ython3 /root/celery'"),
        "systemctl stop second; rm /root/celery",
        saw="celery beat (",
    ),
    Injected(
        ("The app is larger than a process may be", "Files differ from what was deployed"),
        f"cp -p {SETTINGS} {KEPT}; sed -i /max_memory_per_child/s/200mb/64mb/ {SETTINGS}",
        f"mv {KEPT} {SETTINGS}",
        fixed=False,
        saw="celery_max_memory_per_child is 64 MB",
    ),
    explained(
        "Tasks wait where no worker takes them",
        f"{CLI} lpush old '{TASK}'",
        f"{CLI} del old",
        saw="1 task in old",
    ),
    explained(
        "There are dead letters",
        f"{CLI} lpush set-aside x",
        f"{CLI} del set-aside",
        saw="1 task, ",
    ),
    explained(
        "Beat's schedule was damaged",
        "touch /var/lib/celery-beat/schedule.damaged",
        "rm /var/lib/celery-beat/schedule.damaged",
    ),
    explained(
        "Files differ from what was deployed",
        keeping(JOURNALD, f"echo '# by hand' >>{JOURNALD}; chmod 600 {SYSCTL}"),
        f"sed -i '$d' {JOURNALD}; chmod 644 {SYSCTL}; " + at_its_time(JOURNALD),
        saw=f"{SYSCTL} is 600 root:root, not 644 root:root, {JOURNALD} was changed",
    ),
    explained(
        "A service is started again and again",
        "systemctl kill --signal=KILL celery-beat; "
        + until('[ "$(systemctl show -P NRestarts celery-beat)" -gt 0 ]')
        + "; "
        + until("systemctl --quiet is-active celery-beat"),
        "systemctl reset-failed celery-beat",
        saw="celery-beat (1 time)",
    ),
]
