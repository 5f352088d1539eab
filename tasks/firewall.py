"""The firewall: from other machines comes in what a component or the owner asks for."""

from pyinfra import host

from celery_pi.component import component
from celery_pi.deployers import PATH as DEPLOYERS
from celery_pi.deployers import deployers
from celery_pi.firewall_rules import opening
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.ufw import firewall, no_firewall
from celery_pi.settings import Settings
from celery_pi.sources import from_template
from tasks import nginx

PACKAGES = ["ufw"]
PORTS = nginx.PORTS  # of all components that other machines reach


@component("Firewall")
def deploy(settings: Settings) -> None:
    """Only declared ports and ssh are open, and the session that deploys is never cut."""
    if not settings.firewall:
        no_firewall(name="Remove it")
        return
    debian_packages(name="Install ufw", packages=PACKAGES)
    # fail2ban keeps guessers from ssh by logins that have failed, which nobody can fake in the name
    # of another address. A limit goes by first packets, which anybody can, so it stands in where
    # there are no bans; the machines that deploy, which it must not shut out, are noted then too.
    if not settings.bans and (known := deployers(host)):
        listed = from_template(DEPLOYERS, addresses=known)
        config_files(name="Note the machines that deploy", files=[listed])
    firewall(
        name="Close all ports but the declared",
        openings=[opening(text) for text in (*PORTS, *settings.firewall_allow)],
        only_ours=settings.firewall_only_ours,
        limits=not settings.bans,
    )
