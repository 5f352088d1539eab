"""Bans: by fail2ban, of addresses that fail to log in too often."""

from pathlib import PurePath

from pyinfra import host

from celery_pi.component import Component, Unit, deploys, remove
from celery_pi.deployers import PATH as DEPLOYERS
from celery_pi.deployers import deployers
from celery_pi.jails_found import SSH, JailFound
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.package_service import left_to_its_package
from celery_pi.operations.remove_units import remove_units
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.render import from_file, from_template
from celery_pi.settings import Settings

UNIT = "fail2ban.service"
LOGINS = "redis-logins.service"
LIBRARY = "/usr/local/lib/celery-pi"
SCRIPT = from_file(f"{LIBRARY}/redis-logins", mode="0755")
CHECK = from_file(f"{LIBRARY}/check-fail2ban-config", mode="0755")
SANDBOX = from_file(f"/etc/systemd/system/{UNIT}.d/celery-pi.conf")
REDIS = from_file("/etc/fail2ban/filter.d/celery-pi-redis.conf")
FLOWER = from_file("/etc/fail2ban/filter.d/celery-pi-flower.conf")
JAILS = "/etc/fail2ban/jail.d/zz-celery-pi.conf"
TOLD = "/run/redis-logins/told.json"
BANS = Component[Settings](
    "Bans",
    enabled=lambda settings: settings.bans,
    packages=("fail2ban", "nftables", "python3-systemd"),
    no_start=(UNIT,),
    units=(
        # It reads a password that is root's.
        Unit(
            LOGINS, "failed logins to Redis are not seen, nor banned", root=True, needs=("Redis",)
        ),
        Unit(
            UNIT,
            "nobody is banned who guesses passwords",
            root=True,  # it changes the firewall
            exposure=4.0,  # with room for jails of the owner's own
            drop_ins=("celery-pi.conf",),
            debian=True,
        ),
    ),
    writes=(SCRIPT.path, CHECK.path, REDIS.path, FLOWER.path, JAILS, TOLD, DEPLOYERS),
)
LOOPBACK = ("127.0.0.0/8", "::1")
GOOD = "fail2ban-client -t"


def _off(settings: Settings) -> None:
    """Nothing of ours is left, and fail2ban is as its package has it, or as the owner had it."""
    remove(BANS, settings)
    left_to_its_package(name="Run without them", unit=UNIT, check=GOOD)


@deploys(BANS, off=_off)
def deploy(settings: Settings) -> None:
    """Who fails to log in too often, by ssh, to Flower or to Redis, is refused for a time.

    What the owner has said of ssh's jail holds.
    """
    _tell_of_redis(settings)
    _ban(settings)


def _tell_of_redis(settings: Settings) -> None:
    unit = from_template(f"/etc/systemd/system/{LOGINS}", check=CHECK_UNIT, settings=settings)
    config_files(name="Install the watch over Redis' logins", files=[SCRIPT, unit])
    service(name="Run the watch over Redis' logins", unit=LOGINS, watch=[SCRIPT.path, unit.path])


def _ban(settings: Settings) -> None:
    debian_packages(name="Install fail2ban", packages=BANS.packages, no_start=BANS.no_start)
    known = deployers(host)
    jail_of_ssh = host.get_fact(JailFound)
    filters = [REDIS, FLOWER] if settings.flower else [REDIS]
    jails = from_template(
        JAILS,
        check=f'{CHECK.path} "$NEW" {JAILS}',
        settings=settings,
        ignored=[*LOOPBACK, *settings.ban_ignore, *known],
        jail_of_ssh=jail_of_ssh,
    )
    kept = [from_template(DEPLOYERS, addresses=known)] if known else []
    config_files(name="Configure", files=[CHECK, SANDBOX, *filters, *kept, jails])
    service(
        name="Run",
        unit=UNIT,
        watch=[SANDBOX.path],
        reload_for=[JAILS, *(file.path for file in filters)],
        check=GOOD,
        ready=_watch_over(
            *([SSH] if jail_of_ssh.enabled else []),
            *(PurePath(file.path).stem for file in filters),
        ),
    )
    if not settings.flower:
        remove_units(name="Remove Flower's", units=[], files=[FLOWER.path])


def _watch_over(*jails: str) -> str:
    """Shell command that waits, for a minute at most, until all the jails are there."""
    ask = " && ".join(f"fail2ban-client status {jail}" for jail in jails)
    return f"timeout 60 sh -c 'until {{ {ask}; }} >/dev/null 2>&1; do sleep 0.1; done'"
