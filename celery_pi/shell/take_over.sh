# Stop workers that somebody set up by hand, warm, and put their files aside.
# Uses: before, cron, directory, files, guard, lease, patience, running, tables, taken, units, watch
#
# Beat first. Each worker ends its tasks and gives back what it holds: its main process alone is
# told to stop. The unit's own settings for that do not count.
# shellcheck disable=SC2174  # its parent is there
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
