"""What apt would do to install what is missing: what it would remove for it, who holds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyinfra.api import FactBase, StringCommand

from celery_pi.settings import Settings
from celery_pi.shell import assign, script

# Only what has a package that shuts others out, each with a file of it.
ALWAYS = ("redis-server:/usr/bin/redis-server", "logrotate:/usr/sbin/logrotate")
BY_SETTING = {
    "firewall": ("ufw:/usr/sbin/ufw",),
    "flower": ("nginx:/usr/sbin/nginx",),
    "bans": ("fail2ban:/usr/bin/fail2ban-server", "nftables:/usr/sbin/nft"),
}
OTHER_FIREWALLS = {"iptables-persistent", "netfilter-persistent", "firewalld", "shorewall", "ferm"}

SHOW = script("apt_plan")
SOLVED_BY_DEPLOY = (
    "Unable to locate package",
    "has no installation candidate",
    "dpkg was interrupted",
)


class AptPlan(FactBase[list[str]]):
    """Lines of it, nothing where nothing is missing."""

    default = list

    def command(self, packages: Sequence[str]) -> StringCommand:
        return StringCommand(assign(packages=" ".join(packages)), SHOW)


def needed_packages(settings: Settings) -> list[str]:
    """Packages of these settings, each with a file of it."""
    return [
        *ALWAYS,
        *(one for name, some in BY_SETTING.items() if getattr(settings, name) for one in some),
    ]


def apt_problems(plan: Sequence[str]) -> Iterator[str]:
    """A sentence for what apt would remove, and one for what it cannot bring together."""
    removed = [line.partition(" ")[2] for line in plan if line.startswith("removes ")]
    others = [name for name in removed if name not in OTHER_FIREWALLS]
    if others:
        yield (
            f"apt would remove {', '.join(others)} to install what we need: remove it yourself if "
            "nothing needs it, or switch the component off that does (firewall, flower, bans)"
        )
    errors = [line.partition(" ")[2] for line in plan if line.startswith("error ")]
    errors = [line for line in errors if not any(error in line for error in SOLVED_BY_DEPLOY)]
    if errors:
        yield f"apt can install nothing ({'; '.join(errors)}): run `apt-get -f install` on it"


def apt_warnings(plan: Sequence[str]) -> Iterator[str]:
    """A line when somebody else is installing."""
    for line in plan:
        if line.startswith("busy "):
            yield f"{line.partition(' ')[2]} is installing packages; the deploy waits for it"
