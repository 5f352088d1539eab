"""Logs: the journal, and the files that the app itself writes."""

from celery_pi.component import Component, deploys
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.service import service
from celery_pi.render import from_template
from celery_pi.settings import Settings, size_in_bytes
from tasks import command

LOGS = Component[Settings]("Logs", packages=("logrotate",))
PROGRAMS = [command.tool(name) for name in ("privileges", "log_rotation")]


@deploys(LOGS)
def deploy(settings: Settings) -> None:
    """A week of logs is kept over restarts, and they take no more room than they may."""
    debian_packages(name="Install logrotate", packages=LOGS.packages)
    journal = from_template(
        "/etc/systemd/journald.conf.d/celery-pi.conf",
        journal_bytes=size_in_bytes(settings.journal_max_use),
    )
    rotation = from_template("/etc/logrotate.d/celery-pi", settings=settings)
    config_files(name="Configure", files=[*PROGRAMS, journal, rotation])
    service(
        name="Let the journal take it over",
        unit="systemd-journald.service",
        watch=[journal.path],
        ready="journalctl --flush",  # of what was in memory
        managed=False,
    )
