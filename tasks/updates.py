"""Updates: security fixes are installed by themselves, and services run with them."""

from pyinfra import host, logger

from celery_pi.component import component
from celery_pi.operations.absent_units import absent_units
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.service import service
from celery_pi.packages import PackageTroubles
from celery_pi.settings import Settings
from celery_pi.sources import from_file, from_template

UPGRADE = "apt-daily-upgrade"
LISTS = "apt-daily"
PACKAGES = ["unattended-upgrades", "needrestart"]

# apt reads a file whose brackets do not match without a word; its last setting is then another.
# Read alone: the live file has that setting too.
CHECK_APT = """
echo 'Dir::Etc::parts "/dev/null";' >"$NEW.alone"
APT_CONFIG=$NEW.alone apt-config -c "$NEW" dump |
  grep -qx 'Unattended-Upgrade::SyslogEnable "true";'
"""


@component("Updates")
def deploy(settings: Settings) -> None:
    """At the time that is set, what Debian mends for security is installed and used.

    Switched off, nothing of ours is left of it, and what Debian's own configuration does goes on.
    """
    warn_of_troubles()
    files = configuration(settings)
    if settings.updates:
        debian_packages(name="Install unattended-upgrades", packages=PACKAGES)
        config_files(name="Configure", files=files)
    else:
        absent_units(name="Remove", units=[], files=[file.path for file in files])
    for unit in (LISTS, UPGRADE):
        service(
            name=f"Set the time of {unit}",
            unit=f"{unit}.timer",
            watch=[file.path for file in files if f"/{unit}." in file.path],
            ours=settings.updates,
        )


def configuration(settings: Settings) -> list[ConfigFile]:
    """Every file of ours that the updates go by."""
    units = "/etc/systemd/system"
    return [
        from_template(
            "/etc/apt/apt.conf.d/52celery-pi",
            check=CHECK_APT,
            settings=settings,
        ),
        from_template(
            "/etc/needrestart/conf.d/celery-pi.conf", check='perl -c "$NEW"', settings=settings
        ),
        from_file("/etc/needrestart/restart.d/celery-worker.service", mode="0755"),
        from_file(f"{units}/{UPGRADE}.service.d/celery-pi.conf"),
        from_template(f"{units}/{LISTS}.timer.d/celery-pi.conf", settings=settings),
        from_template(f"{units}/{UPGRADE}.timer.d/celery-pi.conf", settings=settings),
    ]


def warn_of_troubles() -> None:
    """Tell, in the plan and in the run, of what keeps the machine from being up to date."""
    for trouble in host.get_fact(PackageTroubles):
        logger.warning(f"{host.name}: {trouble}")
