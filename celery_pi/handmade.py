"""What somebody set up by hand for this app: workers, and what would work against ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pyinfra.api import FactBase, StringCommand

from celery_pi.before import IS_OURS
from celery_pi.settings import Settings
from celery_pi.shell import assign

UNITS = "/etc/systemd/system"
OUR_NAMES = ("celery-worker.service", "celery-beat.service", "celery-flower.service")
CRON = r"redis-cli|dump\.rdb|redis.*backup|backup.*redis|bin/celery"  # of a line that is meant

# A line each: what it is, its name or path, and a word more. Of a unit: what it runs. The files are
# root's, in directories of root's.
SHOW = (
    IS_OURS
    + r"""
cd /
ours_of_systemd() { grep -lE '^[[:space:]]*ExecStart=.*celery' "$units"/*.service 2>/dev/null; }
kind() {
  line=$(grep -E '^[[:space:]]*ExecStart=' -A 9 -- "$1" | tr '\n' ' ')
  case $line in
    *celery*beat*) echo beat ;; *celery*flower*) echo flower ;; *celery*) echo worker ;;
    *) echo other ;;
  esac
}
{ ours_of_systemd; for name in $names; do echo "$units/$name"; done; } | sort -u |
while read -r file; do
  [ -e "$file" ] || [ -L "$file" ] || continue
  is_ours "$file" && continue
  case " $names " in
    *" ${file##*/} "*) ;;
    *) grep -qF -e "$app" -- "$file" || continue ;;
  esac
  echo "unit ${file##*/} $(kind "$file")"
done
# Beside a unit of ours they are the owner's to have.
for name in $names; do
  [ ! -e "$units/$name" ] || ! is_ours "$units/$name" || continue
  for file in "$units/$name.d"/*.conf; do
    [ ! -e "$file" ] || is_ours "$file" || echo "dropin $file -"
  done
done
for file in $(grep -lE "$app/[^ ]*\.log|/celery/[^ ]*\.log" /etc/logrotate.d/* 2>/dev/null); do
  is_ours "$file" || echo "logrotate $file -"
done
for file in /etc/cron.d/* /var/spool/cron/crontabs/*; do
  [ -f "$file" ] || continue
  ! grep -vE '^[[:space:]]*#|celery-pi' -- "$file" | grep -qiE -e "$cron" || echo "cron $file -"
done
# Whatever of Celery runs for this app in no unit that can be put aside.
# A process may have a command line as large as its memory (prctl(2), PR_SET_MM_MAP).
running=$(ulimit -v 524288; timeout -s KILL 30 pgrep -f 'celery.*(worker|beat|flower|multi)' 2>&1)
[ $? -le 1 ] || { echo "celery-pi: pgrep cannot look through the processes: $running" >&2; exit 1; }
for pid in $running; do
  [ "$pid" != $$ ] || continue
  case $(readlink "/proc/$pid/cwd") in "$app" | "$app"/*) ;; *)
    timeout -s KILL 5 head -c 1048576 -- "/proc/$pid/cmdline" 2>/dev/null |
      tr '\0' ' ' | grep -qF -e "$app/" || continue ;; esac
  unit=$(sed -n 's,.*/\([^/]*\.\(service\|scope\)\).*,\1,p' "/proc/$pid/cgroup" 2>/dev/null |
    head -n 1)
  echo "process ${unit:-none} $pid"
done | sort -u -k2,2
"""
)


class Found(NamedTuple):
    """What it is (a unit, a drop-in, a file of logrotate, a crontab or a process), its name or
    path, and of a unit what it runs, of a process its number."""

    what: str
    name: str
    detail: str


class HandMade(FactBase[list[Found]]):
    """What of this app was set up by somebody else, read in one command."""

    default = list

    def command(self, app: str) -> StringCommand:
        return StringCommand(
            assign(app=app, units=UNITS, names=" ".join(OUR_NAMES), cron=CRON), SHOW
        )

    def process(self, output: list[str]) -> list[Found]:
        found = [Found(*line.split(" ", 2)) for line in output]
        units = {each.name for each in found if each.what == "unit"} | set(OUR_NAMES)
        return [
            each
            for each in found
            if each.what != "process" or not (each.name in units or "celery-pi" in each.name)
        ]


def problems(found: Sequence[Found], settings: Settings) -> Iterator[str]:
    """A sentence for what keeps us from deploying beside it."""
    for each in found:
        if each.what == "process":
            yield (
                f"process {each.detail} ({each.name}) runs Celery for this app: stop it for good, "
                "and see that nothing starts it again"
            )
    listed = [described(each) for each in found if each.what != "process"]
    if listed and not settings.replace_handmade:
        yield (
            f"somebody has set up {', '.join(listed)} by hand: write replace_handmade = True to "
            "have that stopped, put aside in /var/lib/celery-pi/before and replaced"
        )


def described(found: Found) -> str:
    """It in a few words."""
    if found.what == "unit":
        return found.name if found.detail == "other" else f"{found.name} ({found.detail})"
    return found.name
