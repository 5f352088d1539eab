"""The nginx that is there: whose it is, what it serves, and whether we need one at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase, StringCommand

from celery_pi import before
from celery_pi.settings import Settings
from celery_pi.shell import assign

CONF = "/etc/nginx"
DEFAULT = f"{CONF}/sites-enabled/default"
MARK = "# Managed by celery-pi"

# What is enabled is ours by its first line, Debian's while it is a configuration file that nobody
# has changed since dpkg has put it there, and the owner's otherwise. What leads out of nginx'
# directory is his too, and is not read: others may write there.
SHOW = r"""
packages=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n${Conffiles}\n' nginx nginx-common \
  2>/dev/null)
case $(printf '%s\n' "$packages" | sed -n 's/^nginx //p') in
  '' | not-installed | config-files) ;;
  *) echo installed ;;
esac
! installed_by_us | grep -qxF nginx || echo by-us
case $(systemctl show -p ActiveState -p UnitFileState nginx) in
  *=active* | *=enabled*) echo runs ;;
esac
for file in "$conf/nginx.conf" "$conf/conf.d/"*.conf "$conf/sites-enabled/"*; do
  [ -e "$file" ] || [ -L "$file" ] || continue
  real=$(readlink -f "$file") whose=owner
  case $real in
    "$conf"/*) if [ -f "$real" ]; then
      sum=$(md5sum <"$real")
      ! printf '%s\n' "$packages" | grep -qF " $real ${sum%% *}" || whose=debian
      ! head -n 1 "$real" | grep -q "^$mark" || whose=ours
      # Whoever has set something else in it has no site there.
      if [ "$file" = "$conf/nginx.conf" ]; then
        grep -qE '^[[:space:]]*(server|stream|mail)[[:space:]]*\{' "$real" || whose=debian
      fi
    fi ;;
  esac
  echo "enabled $whose $file"
done
true  # nothing to say is an answer
"""


@dataclass(frozen=True)
class Nginx:
    """`by_us` says that it was not there before us, `runs` that it does or will after a boot.

    `default` is whose the site is that Debian calls so: "debian", "owner", "ours" or "" for none.
    `theirs` are the files of the owner's that it would read.
    """

    installed: bool = False
    by_us: bool = False
    runs: bool = False
    default: str = ""
    theirs: tuple[str, ...] = ()

    @property
    def may_stop(self) -> bool:
        """Whether nobody but us has use for it."""
        return self.by_us and not self.theirs

    @property
    def default_is_ours_to_end(self) -> bool:
        """Whether Debian's site would be there because of us alone."""
        return (self.by_us or not self.installed) and self.default != "owner"


class NginxFound(FactBase[Nginx]):
    """State of nginx, read in one command."""

    default = Nginx

    def command(self) -> StringCommand:
        words = assign(conf=CONF, mark=MARK, installed=before.INSTALLED, history=before.HISTORY)
        return StringCommand(words, before.INSTALLED_BY_US, SHOW)

    def process(self, output: list[str]) -> Nginx:
        enabled = [line.split(" ", 2)[1:] for line in output if line.startswith("enabled ")]
        whose = {path: who for who, path in enabled}
        return Nginx(
            installed="installed" in output,
            by_us="by-us" in output,
            runs="runs" in output,
            default=whose.get(DEFAULT, ""),
            theirs=tuple(path for path, who in whose.items() if who == "owner"),
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
    if nginx.installed and not nginx.by_us:
        yield (
            "its nginx neither runs nor starts at boot, and would serve again what you have "
            "switched off: systemctl enable --now nginx, or set nginx_server = False"
        )
    elif not nginx.installed and nginx.theirs:
        yield (
            f"its nginx was removed and {_listed(nginx.theirs)} would be served again: move that "
            "out of /etc/nginx, or set nginx_server = False"
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
