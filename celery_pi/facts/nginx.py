"""The nginx that is there: whose it is, what it serves, and whether we need one at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand

from celery_pi import before
from celery_pi.settings import Settings
from celery_pi.shell import assign, script

CONF = "/etc/nginx"
DEFAULT = f"{CONF}/sites-enabled/default"
MARK = "# Managed by celery-pi"

SHOW = script("nginx")


@dataclass(frozen=True)
class Nginx:
    """`installed_by_us`: a deploy has installed it. `runs`: it does, or will after a boot.

    `default` is whose the site is that Debian calls so: "debian", "owner", "ours" or "" for none.
    `owners_files` are the files of the owner's that it would read.
    """

    installed: bool = False
    installed_by_us: bool = False
    runs: bool = False
    default: str = ""
    owners_files: tuple[str, ...] = ()

    @property
    def may_stop(self) -> bool:
        """Whether nobody but us has use for it."""
        return self.installed_by_us and not self.owners_files

    @property
    def default_is_ours_to_end(self) -> bool:
        """Whether Debian's site would be there because of us alone."""
        return (self.installed_by_us or not self.installed) and self.default != "owner"


class NginxState(FactBase[Nginx]):
    """State of nginx, read in one command."""

    default = Nginx

    def command(self) -> StringCommand:
        words = assign(conf=CONF, mark=MARK, installed=before.INSTALLED, history=before.HISTORY)
        return StringCommand(words, before.INSTALLED_BY_US, SHOW)

    def process(self, output: list[str]) -> Nginx:
        enabled = [line.split(" ", 2)[1:] for line in output if line.startswith("enabled ")]
        owners = {path: owner for owner, path in enabled}
        return Nginx(
            installed="installed" in output,
            installed_by_us="by-us" in output,
            runs="runs" in output,
            default=owners.get(DEFAULT, ""),
            owners_files=tuple(path for path, owner in owners.items() if owner == "owner"),
        )


def is_needed(settings: Settings, nginx: Nginx) -> bool:
    """Whether nginx shows Flower: by our own server block, or by one of the owner's."""
    if not settings.flower:
        return False
    return settings.nginx_server or (nginx.installed and nginx.runs and not nginx.may_stop)


def problems(settings: Settings, nginx: Nginx) -> Iterator[str]:
    """Why we must not start it: what the owner has switched off would be served again."""
    if not is_needed(settings, nginx) or nginx.runs:
        return
    if nginx.installed and not nginx.installed_by_us:
        yield (
            "its nginx neither runs nor starts at boot, and would serve again what you have "
            "switched off: systemctl enable --now nginx, or set nginx_server = False"
        )
    elif not nginx.installed and nginx.owners_files:
        yield (
            f"its nginx was removed and {_listed(nginx.owners_files)} would be served again: move "
            "that out of /etc/nginx, or set nginx_server = False"
        )


def port_problem(server: str) -> str:
    """What to write where another web server has the ports at which nginx would show Flower."""
    return (
        f"{server} listens on port 80 or 443, where nginx is to show Flower: set "
        "nginx_server = False, and Flower is reached by an ssh tunnel (docs/operate/flower.md), "
        "or set flower = False"
    )


def _listed(paths: Sequence[str]) -> str:
    return " ".join(paths)
