"""The firewall: from other machines comes in what a component or the owner asks for."""

from celery_pi.component import component
from celery_pi.firewall_rules import opening
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.ufw import firewall, no_firewall
from celery_pi.settings import Settings
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
    firewall(
        name="Close all ports but the declared",
        openings=[opening(text) for text in (*PORTS, *settings.firewall_allow)],
        only_ours=settings.firewall_only_ours,
    )
