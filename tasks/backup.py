"""Backups: made each day, and restored on trial each week."""

from pyinfra.operations import files

from celery_pi.component import component
from celery_pi.operations.absent_units import absent_units
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.secrets import DIRECTORY, supplied
from celery_pi.settings import Settings
from celery_pi.sources import from_file, from_template
from tasks import command

LIBRARY = "/usr/local/lib/celery-pi"
PLACE = "/var/backups/celery-pi"
UNITS = "/etc/systemd/system"
BACKUP, DRILL = "celery-pi-backup", "celery-pi-drill"
OFF_SITE = from_file(f"{LIBRARY}/backup-off-site", mode="0755")
RESTIC = ["restic"]
PASSWORD = f"{DIRECTORY}/restic_password"


@component("Backup")
def deploy(settings: Settings) -> None:
    """A backup is made each day and tried each week; or neither, and those that are there stay."""
    command.install_tools()  # a restore works where no backup is made
    if settings.backup:
        files.directory(
            name="Make their directory", path=PLACE, user="root", group="root", mode="700"
        )
        _off_site(settings)
        _timers(settings)
    else:
        names = [f"{unit}.{kind}" for unit in (BACKUP, DRILL) for kind in ("timer", "service")]
        ours = [*(_sandbox(unit, settings).path for unit in (BACKUP, DRILL)), OFF_SITE.path]
        absent_units(name="Remove the timers", units=names, files=[*ours, PASSWORD])


def _off_site(settings: Settings) -> None:
    """restic takes each one elsewhere."""
    if settings.backup_restic_repository and settings.backup_restic_password_file:
        debian_packages(name="Install restic", packages=RESTIC)
        text = supplied(settings.backup_restic_password_file)
        password = ConfigFile(PASSWORD, text, mode="0600", secret=True)
        config_files(name="Configure restic", files=[OFF_SITE, password])
    else:
        absent_units(name="Take none off-site", units=[], files=[OFF_SITE.path, PASSWORD])


def _timers(settings: Settings) -> None:
    units = {
        BACKUP: from_template(f"{UNITS}/{BACKUP}.timer", check=CHECK_UNIT, settings=settings),
        DRILL: from_file(f"{UNITS}/{DRILL}.timer", check=CHECK_UNIT),
    }
    services = [
        from_template(f"{UNITS}/{unit}.service", check=CHECK_UNIT, settings=settings)
        for unit in units
    ]
    sandboxes = [_sandbox(unit, settings) for unit in units]
    config_files(name="Configure", files=[*services, *sandboxes, *units.values()])
    for unit, timer in units.items():
        watch = [timer.path, f"{UNITS}/{unit}.service", _sandbox(unit, settings).path]
        service(name=f"Run the timer of {unit}", unit=f"{unit}.timer", watch=watch)


def _sandbox(unit: str, settings: Settings) -> ConfigFile:
    return from_template(f"{UNITS}/{unit}.service.d/sandbox.conf", settings=settings)
