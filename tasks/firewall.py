"""The firewall: from other machines comes in what a component or the owner asks for."""

from pyinfra import host

from celery_pi.component import Component, deploys, enabled
from celery_pi.facts.admin_addresses import PATH as ADMIN_ADDRESSES
from celery_pi.facts.admin_addresses import admin_addresses
from celery_pi.firewall_rules import opening
from celery_pi.operations.config_files import config_files
from celery_pi.operations.debian_packages import debian_packages
from celery_pi.operations.ufw import firewall, no_firewall
from celery_pi.render import from_template
from celery_pi.settings import Settings

FIREWALL = Component[Settings](
    "Firewall",
    enabled=lambda settings: settings.firewall,
    packages=("ufw",),
    writes=(ADMIN_ADDRESSES,),
)


def _off(_: Settings) -> None:
    no_firewall(name="Remove it")


@deploys(FIREWALL, off=_off)
def deploy(settings: Settings) -> None:
    """Only the ports of components, declared ones and ssh are open, and the session that deploys is
    never cut."""
    debian_packages(name="Install ufw", packages=FIREWALL.packages)
    # fail2ban keeps guessers from ssh by logins that have failed, which nobody can fake in the name
    # of another address. A limit goes by first packets, which anybody can, so it stands in where
    # there are no bans; the machines that deploy, which it must not shut out, are noted then too.
    if not settings.bans and (addresses := admin_addresses(host)):
        address_file = from_template(ADMIN_ADDRESSES, addresses=addresses)
        config_files(name="Note the machines that deploy", files=[address_file])
    firewall(
        name="Close all ports but the declared",
        openings=[opening(text) for text in (*ports(settings), *settings.firewall_allow)],
        only_ours=settings.firewall_only_ours,
        limits=not settings.bans,
    )


def ports(settings: Settings) -> list[str]:
    """What components let other machines reach."""
    return [port for component in enabled(settings) for port in component.ports]
