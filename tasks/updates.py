"""Updates: security fixes are installed by themselves, and services run with them."""

from pyinfra import host, logger

from celery_pi.component import Component, Unit, deploys, remove
from celery_pi.facts.package_health import PackageHealth
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.service import service
from celery_pi.render import from_file, from_template
from celery_pi.settings import Settings

UPGRADE = "apt-daily-upgrade"
LISTS = "apt-daily"
DROP_IN = "celery-pi.conf"
OF_APT = "/etc/apt/apt.conf.d/52celery-pi"
OF_NEEDRESTART = "/etc/needrestart/conf.d/celery-pi.conf"
WORKERS_RESTART = "/etc/needrestart/restart.d/celery-worker.service"
UPDATES = Component[Settings](
    "Updates",
    enabled=lambda settings: settings.updates,
    packages=("unattended-upgrades", "needrestart"),
    units=tuple(
        Unit(name, "security updates are not installed", True, 10, (DROP_IN,), True, daemon=False)
        for name in (f"{UPGRADE}.service", f"{LISTS}.timer", f"{UPGRADE}.timer")
    ),
    writes=(OF_APT, OF_NEEDRESTART, WORKERS_RESTART),
)

# apt reads a file whose brackets do not match without a word; its last setting is then another.
# Read alone: the live file has that setting too.
CHECK_APT = """
echo 'Dir::Etc::parts "/dev/null";' >"$NEW.alone"
APT_CONFIG=$NEW.alone apt-config -c "$NEW" dump |
  grep -qx 'Unattended-Upgrade::SyslogEnable "true";'
"""


def _off(settings: Settings) -> None:
    """Nothing of ours is left of it, and what Debian's own configuration does goes on."""
    warn_of_troubles()
    remove(UPDATES, settings)
    _set_times(settings)


@deploys(UPDATES, off=_off)
def deploy(settings: Settings) -> None:
    """At the time that is set, what Debian mends for security is installed and used."""
    warn_of_troubles()
    debian_packages(name="Install unattended-upgrades", packages=UPDATES.packages)
    config_files(name="Configure", files=configuration(settings))
    _set_times(settings)


def _set_times(settings: Settings) -> None:
    for unit in (LISTS, UPGRADE):
        service(
            name=f"Set the time of {unit}",
            unit=f"{unit}.timer",
            watch=[path for path in UPDATES.files if f"/{unit}." in path],
            managed=settings.updates,
        )


def configuration(settings: Settings) -> list[ConfigFile]:
    """Every file of ours that the updates go by."""
    units = "/etc/systemd/system"
    return [
        from_template(OF_APT, check=CHECK_APT, settings=settings),
        from_template(OF_NEEDRESTART, check='perl -c "$NEW"', settings=settings),
        from_file(WORKERS_RESTART, mode="0755"),
        from_file(f"{units}/{UPGRADE}.service.d/{DROP_IN}"),
        from_template(f"{units}/{LISTS}.timer.d/{DROP_IN}", settings=settings),
        from_template(f"{units}/{UPGRADE}.timer.d/{DROP_IN}", settings=settings),
    ]


def warn_of_troubles() -> None:
    """Tell, in the plan and in the run, of what keeps the machine from being up to date."""
    for trouble in host.get_fact(PackageHealth):
        logger.warning(f"{host.name}: {trouble}")
