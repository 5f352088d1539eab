"""What a deploy could harm on a site that is there is refused, or told, with the machine as it was.

Each fault is made on a deployed machine, and has a control: without it the same deploy goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.helpers.harness import APP, Outcome, deploy, fingerprint, plan, wait_for
from tests.virtual_pi import VirtualPi

pytestmark = pytest.mark.native

REQUIREMENTS = f"{APP}/requirements-prod.txt"
JAIL = "/etc/fail2ban/jail.d/nids-django.conf"
FILTER = "/etc/fail2ban/filter.d/nids-django.conf"
ROTATION = "/etc/logrotate.d/observations-nids"
OWNERS_PINS = ("celery==5.6.0", "kombu==5.6.1", "redis==7.1.0")


@pytest.fixture(autouse=True, scope="module")
def settled(pi: VirtualPi) -> None:
    """The control of all: nothing is wrong, and nothing is to be done."""
    assert deploy(pi).changed == set()


def test_pins_that_the_owners_requirements_contradict_are_refused_with_those_to_write(
    pi: VirtualPi,
) -> None:
    base = "\\n".join(OWNERS_PINS)
    spoil = (
        f"cp -p {REQUIREMENTS} /root/kept && printf -- '-r base.txt\\nDjango==5.2.19\\n' "
        f">{REQUIREMENTS} && printf '{base}\\n' >{APP}/base.txt && chown pi {APP}/base.txt"
    )
    with spoilt(pi, spoil, f"mv /root/kept {REQUIREMENTS} && rm {APP}/base.txt"):
        said = refused(pi).stderr
        assert f"{APP}/base.txt asks for celery==5.6.0 (line 1), kombu==5.6.1 (line 2), " in said
        assert "where app_pins has celery==5.6.3, kombu==5.7.0, redis==8.1.0: set app_pins" in said
        pins = said.partition("app_pins = (")[2].partition(")")[0].replace('"', "")
        assert set(pins.split(", ")) > set(OWNERS_PINS)
        # What the sentence says is right: with it, nothing is refused.
        assert plan(pi, app_pins=pins).status == 0


def test_requirements_that_no_pins_would_help_are_refused_with_pips_reason(pi: VirtualPi) -> None:
    with spoilt(
        pi,
        f"cp -p {REQUIREMENTS} /root/kept && echo 'django-celery-beat==2.5.0' >>{REQUIREMENTS}",
        f"mv /root/kept {REQUIREMENTS}",
    ):
        said = refused(pi).stderr
        assert "django-celery-beat 2.5.0 depends on Django<5.0" in said
        assert f"change {REQUIREMENTS}" in said


def test_jail_that_would_end_fail2ban_is_refused(pi: VirtualPi) -> None:
    jail = f"printf '[nids-django]\\nenabled = true\\nbackend = systemd\\n' >{JAIL}"
    filters = f"printf '[Definition]\\nfailregex = ^Failed login\\n' >{FILTER}"
    with spoilt(pi, f"{jail}; {filters}", f"rm {JAIL} {FILTER}"):
        # fail2ban's own test sees nothing.
        assert "OK" in pi.run("fail2ban-client", "-t").stdout
        said = refused(pi).stderr
        assert "jail nids-django: No failure-id group" in said
        assert "set bans = False" in said
        pi.run("sh", "-c", f"sed -i 's/login/login from <HOST>/' {FILTER}")
        assert plan(pi).planned == set()


def test_log_that_is_rotated_already_is_refused(pi: VirtualPi) -> None:
    rotates = f"printf '{APP}/logs/celery*.log {{\\n  weekly\\n  missingok\\n}}\\n' >{ROTATION}"
    with spoilt(pi, rotates, f"rm {ROTATION}"):
        assert f"somebody has set up {ROTATION} by hand" in refused(pi).stderr
        pi.run("sh", "-c", f"sed -i s,{APP}/logs/,/var/log/nids/, {ROTATION}")
        assert plan(pi).planned == set()


def test_broken_nginx_is_refused_where_it_is_needed_and_told_where_not(pi: VirtualPi) -> None:
    bad = "/etc/nginx/conf.d/nids.conf"
    with spoilt(pi, f"echo 'nonsense on;' >{bad}", f"rm {bad}"):
        assert 'unknown directive "nonsense"' in refused(pi).stderr
        told = plan(pi, flower=False)
        assert told.status == 0
        assert "nginx finds its own configuration wrong" in told.stderr


def test_broken_file_of_ours_is_mended_and_not_refused(pi: VirtualPi) -> None:
    pi.run("sh", "-c", "echo nonsense >>/etc/nginx/conf.d/celery-pi.conf")
    pi.run("sh", "-c", "echo nonsense >>/etc/fail2ban/jail.d/zz-celery-pi.conf")
    changed = deploy(pi).changed
    assert {"nginx | Configure Flower's location", "Bans | Configure"} <= changed


def test_port_of_redis_that_somebody_else_has_is_refused(pi: VirtualPi) -> None:
    listen = "systemd-run --quiet --unit=valkey python3 -m http.server 6400"
    with spoilt(pi, listen, "systemctl stop valkey"):
        wait_for("it listens", lambda: pi.run("ss", "-Htln", "sport = :6400").stdout)
        said = refused(pi, redis_port=6400).stderr
        assert "python3 (valkey.service) listens on port 6400, where Redis is to" in said
        assert "set redis_port = 6390" in said
        assert plan(pi).planned == set()


def test_ssh_and_sudo_that_are_broken_are_told(pi: VirtualPi) -> None:
    bad = "/etc/ssh/sshd_config.d/nids.conf"
    with spoilt(pi, f"echo 'PermitRootLogin perhaps' >{bad}", f"rm {bad}"):
        told = plan(pi)
        assert told.status == 0
        assert "sshd finds its own configuration wrong" in told.stderr
    assert "sshd finds" not in plan(pi).stderr


def test_fresh_machine_tells_who_would_be_cut_off_and_who_uses_redis(
    fresh_native_pi: VirtualPi,
) -> None:
    pi = fresh_native_pi
    pi.run("sh", "-c", "apt-get -q update && apt-get -q -y install redis-server", timeout=600)
    pi.run("sh", "-c", "printf '\\nrequirepass s3cret-of-the-guide\\n' >>/etc/redis/redis.conf")
    pi.run("systemctl", "restart", "redis-server")
    ask = "REDISCLI_AUTH=s3cret-of-the-guide redis-cli -n 1"
    pi.run("sh", "-c", f"{ask} set :1:page x")
    pi.run("systemd-run", "--quiet", "--unit=cache", "sh", "-c", f"sleep 300 | {ask}")
    pi.run("systemd-run", "--quiet", "--unit=hass", "python3", "-m", "http.server", "8123")
    wait_for("it listens", lambda: pi.run("ss", "-Htln", "sport = :8123").stdout)
    before = fingerprint(pi)
    told = plan(pi)
    assert told.status == 0
    assert 'python3 on 8123/tcp off from other machines: add "8123/tcp"' in told.stderr
    assert "database 1 of Redis (1 keys, used by redis-cli of root (cache.service))" in told.stderr
    assert "s3cret" not in told.output
    assert "8123/tcp off" not in plan(pi, firewall_allow="8123/tcp").stderr
    assert "8123/tcp off" not in plan(pi, firewall=False).stderr
    assert fingerprint(pi) == before


def test_packages_that_shut_each_other_out_are_refused(fresh_native_pi: VirtualPi) -> None:
    pi = fresh_native_pi
    install = "DEBIAN_FRONTEND=noninteractive apt-get -q -y install iptables-persistent"
    pi.run("sh", "-c", install, timeout=600)
    assert "iptables-persistent has a firewall of its own" in refused(pi).stderr
    assert plan(pi, firewall=False).status == 0


@contextmanager
def spoilt(pi: VirtualPi, spoil: str, mend: str) -> Iterator[None]:
    """The machine with that fault, and afterwards without it."""
    pi.run("sh", "-c", spoil)
    try:
        yield
    finally:
        pi.run("sh", "-c", mend)


def refused(pi: VirtualPi, **settings: object) -> Outcome:
    """The deploy is refused, and nothing on the disk is other than before."""
    before, keys = fingerprint(pi), packages(pi)
    outcome = deploy(pi, **settings)
    assert outcome.status == 1
    assert "is left as it was, because" in outcome.stderr
    assert "Traceback" not in outcome.output
    assert fingerprint(pi) == before
    assert packages(pi) == keys
    return outcome


def packages(pi: VirtualPi) -> str:
    """Debian's, and those of the app's environment, where there is one."""
    listed = "dpkg-query -W; ls -d /var/www/observations_nids/venv/lib/*/site-packages/* || true"
    return pi.run("sh", "-c", listed).stdout
