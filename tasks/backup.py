"""Backups: made each day, and restored on trial each week."""

from pyinfra.operations import files

from celery_pi.component import Component, Secret, Unit, deploys, remove
from celery_pi.operations.config_files import ConfigFile, config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.service import CHECK_UNIT, service
from celery_pi.render import from_file, from_template
from celery_pi.secrets import DIRECTORY, supplied
from celery_pi.settings import Settings

LIBRARY = "/usr/local/lib/celery-pi"
PLACE = "/var/backups/celery-pi"
UNITS = "/etc/systemd/system"
BACKUP, DRILL = "celery-pi-backup", "celery-pi-drill"
OFF_SITE = from_file(f"{LIBRARY}/backup-off-site", mode="0755")
PASSWORD = f"{DIRECTORY}/restic_password"

BACKUPS = Component[Settings](
    "Backup",
    enabled=lambda settings: settings.backup,
    units=tuple(
        Unit(f"{unit}.{kind}", why, root=True, drop_ins=drop_ins, daemon=False)
        for unit, why in (
            (BACKUP, "no backup is made"),
            (DRILL, "nobody knows whether a backup can be restored"),
        )
        for kind, drop_ins in (("timer", ()), ("service", ("sandbox.conf",)))
    ),
)
RESTIC = Component[Settings](
    "Off-site",
    enabled=lambda settings: bool(
        settings.backup
        and settings.backup_restic_repository
        and settings.backup_restic_password_file
    ),
    packages=("restic",),
    secrets=(Secret(PASSWORD, "600"), Secret("/etc/celery-pi/restic.env", "600", stays=True)),
    writes=(OFF_SITE.path,),
)


def _off(settings: Settings) -> None:
    """No backup is made, and those that are there stay."""
    off_site()
    remove(BACKUPS, settings)


@deploys(BACKUPS, off=_off)
def deploy(settings: Settings) -> None:
    """A backup is made each day and tried each week."""
    files.directory(name="Make their directory", path=PLACE, user="root", group="root", mode="700")
    off_site()
    _timers(settings)


def _take_none(settings: Settings) -> None:
    remove(RESTIC, settings, name="Take none off-site")


@deploys(RESTIC, off=_take_none)
def off_site(settings: Settings) -> None:
    """restic takes each one elsewhere."""
    assert settings.backup_restic_password_file  # by `enabled`
    debian_packages(name="Install restic", packages=RESTIC.packages)
    text = supplied(settings.backup_restic_password_file)
    password = ConfigFile(PASSWORD, text, mode="0600", secret=True)
    config_files(name="Configure restic", files=[OFF_SITE, password])


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
