"""Bans: by fail2ban, of addresses that fail to log in too often."""

from pathlib import PurePath

from pyinfra import host

from celery_pi.component import Component, Unit, deploys, remove
from celery_pi.facts.admin_addresses import PATH as ADMIN_ADDRESSES
from celery_pi.facts.admin_addresses import admin_addresses
from celery_pi.facts.ssh_jail import SSH, SshJail
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.package_service import left_to_its_package
from celery_pi.operations.remove_units import remove_units
from celery_pi.operations.service import service
from celery_pi.render import from_file, from_template
from celery_pi.settings import Settings

UNIT = "fail2ban.service"
LIBRARY = "/usr/local/lib/celery-pi"
CHECK = from_file(f"{LIBRARY}/check-fail2ban-config", mode="0755")
SANDBOX = from_file(f"/etc/systemd/system/{UNIT}.d/celery-pi.conf")
FLOWER = from_file("/etc/fail2ban/filter.d/celery-pi-flower.conf")
JAILS = "/etc/fail2ban/jail.d/zz-celery-pi.conf"
BANS = Component[Settings](
    "Bans",
    enabled=lambda settings: settings.bans,
    packages=("fail2ban", "nftables", "python3-systemd"),
    no_start=(UNIT,),
    units=(
        Unit(
            UNIT,
            "nobody is banned who guesses passwords",
            root=True,  # it changes the firewall
            exposure=4.0,  # with room for jails of the owner's own
            drop_ins=("celery-pi.conf",),
            debian=True,
        ),
    ),
    writes=(CHECK.path, FLOWER.path, JAILS, ADMIN_ADDRESSES),
)
LOOPBACK = ("127.0.0.0/8", "::1")
GOOD = "fail2ban-client -t"

# Until November 2026 there was a jail for Redis as well, whose log this service wrote.
FORMER_UNIT = "redis-logins.service"
FORMER = [
    f"{LIBRARY}/redis-logins",
    "/etc/fail2ban/filter.d/celery-pi-redis.conf",
    "/run/redis-logins/told.json",
    "/run/redis-logins",
]


def _off(settings: Settings) -> None:
    """Nothing of ours is left, and fail2ban is as its package has it, or as the owner had it."""
    remove(BANS, settings)
    left_to_its_package(name="Run without them", unit=UNIT, check=GOOD)
    _remove_former()


@deploys(BANS, off=_off)
def deploy(settings: Settings) -> None:
    """Who fails to log in too often, by ssh or to Flower, is refused for a time.

    Redis has no jail: it is reached from this machine alone, whose addresses are never banned. What
    the owner has set for ssh's jail holds.
    """
    _ban(settings)
    _remove_former()  # last: until fail2ban has reloaded, its jail needs the filter


def _ban(settings: Settings) -> None:
    debian_packages(name="Install fail2ban", packages=BANS.packages, no_start=BANS.no_start)
    addresses = admin_addresses(host)
    jail_of_ssh = host.get_fact(SshJail)
    filters = [FLOWER] if settings.flower else []
    jails = from_template(
        JAILS,
        check=f'{CHECK.path} "$NEW" {JAILS}',
        settings=settings,
        ignored=[*LOOPBACK, *settings.ban_ignore, *addresses],
        jail_of_ssh=jail_of_ssh,
    )
    address_files = [from_template(ADMIN_ADDRESSES, addresses=addresses)] if addresses else []
    config_files(name="Configure", files=[CHECK, SANDBOX, *filters, *address_files, jails])
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


def _remove_former() -> None:
    remove_units(name="Remove the watch over Redis' logins", units=[FORMER_UNIT], files=FORMER)
