"""The Debian packages of the other components."""

from celery_pi.component import component
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.settings import Settings
from tasks import app, backup, bans, command, firewall, logs, nginx, redis, updates


@component("Packages")
def deploy(settings: Settings) -> None:
    """They are installed in one call of apt, which takes a second or two for each.

    No service that a component configures is started by that, so none runs as its package has it,
    nor before the firewall is up. A component that is deployed alone installs its own packages,
    and one whose packages must find something there first still does.
    """
    wanted = [*logs.PACKAGES, *redis.PACKAGES, *app.PACKAGES, *command.PACKAGES]
    if settings.firewall:
        wanted += firewall.PACKAGES
    if nginx.is_needed(settings):
        wanted += nginx.PACKAGES
        nginx.without_debians_site()
    if settings.bans:
        wanted += bans.PACKAGES
    if settings.backup and settings.backup_restic_repository:
        wanted += backup.RESTIC
    if settings.updates:
        wanted += updates.PACKAGES
    debian_packages(name="Install", packages=wanted, held=[redis.UNIT, nginx.UNIT, bans.UNIT])
