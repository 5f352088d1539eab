"""A worker, and what belongs to it, that somebody set up by hand: stopped warm, and put aside."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FactBase, StringCommand, operation

from celery_pi.before import DIRECTORY, KEEP
from celery_pi.deploys import lock
from celery_pi.handmade import CRON, UNITS, Found, described
from celery_pi.plan import will
from celery_pi.shell import assign

RUNNING = "/run/celery-pi/takeover"  # while it is there, what was stopped may come back
GUARD = "celery-pi-takeover.service"

# Beat first. Each worker ends its tasks and gives back what it holds: its main process alone is
# told to stop. What the unit says of that does not count.
TAKE = (
    "set -e\n"
    + KEEP
    + r"""
mkdir -p -m 0700 "$before" "${running%/*}"
systemctl stop "$guard" 2>/dev/null || true  # of a deploy before this one
printf '%s' "$watch" >"$running"
systemd-run --quiet --collect --unit="$guard" --setenv=running="$running" --setenv=units="$units" \
  --setenv=before="$before" --setenv=directory="$directory" --setenv=lease="$lease" \
  sh "$running"
# What he has allowed it, and named to it, holds for the one in its place; of variables that ours
# sets, none. MemoryLimit= is the old name of MemoryMax= (systemd.resource-control(5)).
limits() {
  sed -e ':a' -e '/\\$/N; s/\\\n/ /; ta' "$1" |
    sed -nE -e 's/^MemoryLimit=/MemoryMax=/' \
      -e '/^Environment=.*(PYTHONPATH|CELERY[A-Z_]*|[" =]PATH)=/d' \
      -e '/^(Environment|Nice|TasksMax|LimitNOFILE)=/p' \
      -e '/^(Memory(Max|High|Low)|CPU(Quota|Weight|Shares)|IO(Weight|Scheduling[A-Za-z]*))=/p'
}
hand_over() {
  case $2 in worker | beat) ;; *) return 0 ;; esac
  found=$(limits "$units/$1")
  [ -n "$found" ] || return 0
  drop=$units/celery-$2.service.d/celery-pi-owner.conf
  keep "$drop"
  mkdir -p "${drop%/*}"
  printf '%s\n' "# From $1, which was here before: yours." '[Service]' "$found" >"$drop.new"
  chmod --reference="$units/$1" "$drop.new"
  mv "$drop.new" "$drop"
}
put_aside() {
  [ -e "$units/$1" ] || [ -L "$units/$1" ] || return 0
  if ! grep -q "^$1 " "$before/units" 2>/dev/null; then
    echo "$1 $(systemctl is-enabled "$1" 2>/dev/null) $(systemctl is-active "$1")" >>"$before/units"
  fi
  keep "$units/$1"
  hand_over "$1" "$2"
  warm=/run/systemd/system/$1.d
  mkdir -p "$warm"
  printf '[Service]\nKillMode=mixed\nRestart=no\nTimeoutStopSec=%s\n' "$patience" \
    >"$warm/zz-celery-pi.conf"
  systemctl daemon-reload
  systemctl stop "$1"
  systemctl disable --quiet "$1" 2>/dev/null || true  # one that is a link, or has no [Install]
  rm -f "$units/$1"
  rm -r "$warm"
}
for unit in $taken; do put_aside "${unit%=*}" "${unit#*=}"; done
for file in $files; do keep "$file"; rm -f "$file"; done
for file in $tables; do
  keep "$file"
  awk -v pattern="$cron" 'BEGIN { pattern = tolower(pattern) }
    /^[[:space:]]*#/ || /celery-pi/ || tolower($0) !~ pattern { print; next }
    { print "# put aside by celery-pi: " $0 }' "$file" >"$file.celery-pi"
  chown --reference="$file" "$file.celery-pi"; chmod --reference="$file" "$file.celery-pi"
  mv "$file.celery-pi" "$file"
done
systemctl daemon-reload
"""
)

# Who deploys may be gone at any time. Then the queue has its old worker again, which the next
# deploy takes over anew.
WATCH = r"""
while sleep 2; do
  [ -e "$running" ] || exit 0
  read -r up _ </proc/uptime; up=${up%%.*}; at=0
  [ ! -e "$directory/beat" ] || read -r _ at <"$directory/beat"
  [ $((up - at)) -ge "$lease" ] || continue
  while read -r unit enabled active; do
    ours=$(systemctl is-active celery-worker.service celery-beat.service | sort -u)
    [ "$ours" != active ] || break
    if [ ! -e "$units/$unit" ] || grep -qaF 'Managed by celery-pi' "$units/$unit"; then
      systemctl stop "$unit" 2>/dev/null
      cp -a --remove-destination "$before/files$units/$unit" "$units/$unit"
      systemctl daemon-reload
    fi
    [ "$enabled" != enabled ] || systemctl enable --quiet "$unit"
    [ "$active" != active ] || systemctl start --no-block "$unit"
  done <"$before/units"
  rm -f "$running"
done
"""


class TakingOver(FactBase[bool]):
    """Whether a take-over is on its way."""

    default = bool

    def command(self) -> StringCommand:
        return StringCommand("ls", RUNNING, "2>/dev/null || true")  # no is an answer

    def process(self, output: list[str]) -> bool:
        return bool(output)


@operation()
def take_over(found: Sequence[Found], patience: int) -> Generator[StringCommand]:
    """None of it runs any more; what it was is in /var/lib/celery-pi/before.

    A worker has `patience` seconds to end its tasks, and gives back what it has not begun. Should
    this deploy end before `taken_over`, the Pi starts what was stopped again by itself.
    """
    if not found:
        host.noop("nothing was set up by hand")
        return
    units = [each for each in found if each.what == "unit"]
    units.sort(key=lambda each: ("beat", "flower", "worker", "other").index(each.detail))
    for each in units:
        will(host, "stop", each.name, f"a {each.detail}, warm", theirs=True)
    for each in found:
        will(host, "put aside", described(each), f"in {DIRECTORY}")
    values = assign(
        running=RUNNING,
        units=UNITS,
        before=DIRECTORY,
        directory=lock.DIRECTORY,
        lease=str(lock.LEASE + 10),
        guard=GUARD,
        watch=WATCH,
        patience=str(patience),
        taken=" ".join(f"{each.name}={each.detail}" for each in units),
        files=" ".join(each.name for each in found if each.what in ("dropin", "logrotate")),
        tables=" ".join(each.name for each in found if each.what == "cron"),
        cron=CRON.replace("\\", "\\\\"),
    )
    yield StringCommand(values, TAKE)


@operation()
def taken_over(planned: bool) -> Generator[StringCommand]:
    """What took the place of the old worker is up; nothing goes back by itself any more."""
    if planned or host.get_fact(TakingOver):
        yield StringCommand(assign(running=RUNNING, guard=GUARD), 'rm -f "$running"')
    else:
        host.noop("no take-over is on its way")
