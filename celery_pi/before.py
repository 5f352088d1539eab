"""What was on the machine before us: kept there, so that nothing of the owner's is lost.

In /var/lib/celery-pi/before, which only root enters: `files/` holds a copy of each file that a
deploy has changed or removed and that was not ours, under its own path; `ours` lists the paths
where nothing was. Both are written before the change, once, and `make leave` goes by them.
`installed` names the Debian packages that were not there and that a deploy has installed.
"""

from __future__ import annotations

DIRECTORY = "/var/lib/celery-pi/before"

# Shell. A deploy of an older version has kept no list: of what it made, the name tells, or the
# text.
IS_OURS = r"""
before=/var/lib/celery-pi/before
is_ours() {
  case $1 in
    /etc/celery-pi/* | /usr/local/lib/celery-pi/* | /var/lib/celery-pi/* | /run/*) return 0 ;;
    /var/lib/systemd/timers/*) return 0 ;;
    *celery-pi*) [ ! -L "$1" ]; return ;;
  esac
  grep -qxF -e "$1" "$before/ours" 2>/dev/null ||
    { [ -f "$1" ] && [ ! -L "$1" ] && head -c 4096 -- "$1" | grep -qaF 'Managed by celery-pi'; }
}
"""

# `keep PATH` before it is changed; in directories of root's.
KEEP = (
    IS_OURS
    + r"""
keep() {
  case $1 in /run/*) return ;; esac
  # Others read what is beside it.
  [ -d "$before" ] || (umask 022; mkdir -p "${before%/*}"; umask 077; mkdir -p "$before")
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then
    grep -qxF -e "$1" "$before/ours" 2>/dev/null || printf '%s\n' "$1" >>"$before/ours"
  elif [ ! -e "$before/files$1" ] && [ ! -L "$before/files$1" ] && ! is_ours "$1"; then
    mkdir -p "$before/files${1%/*}"
    rm -rf "$before/copying"
    cp -a -T -- "$1" "$before/copying"
    [ -L "$before/copying" ] || sync "$before/copying"
    mv -T -- "$before/copying" "$before/files$1"
  fi
}
"""
)

INSTALLED = f"{DIRECTORY}/installed"
HISTORY = "/var/log/apt/history.log"  # which logrotate keeps for a year

# A Pi that older deploys have made has no record. apt's own log then tells what they installed: no
# other command line has our lock's time-out. What it does not tell was there before us.
INSTALLED_BY_US = r"""
installed_by_us() {
  if [ -e "$installed" ]; then cat "$installed"; return; fi
  for log in "$history" "$history".*; do
    # One that is missing is an answer.
    case $log in *.gz) gzip -dc "$log" ;; *) cat "$log" ;; esac 2>/dev/null || true
  done | awk '
    /^Commandline: / { ours = / -o DPkg::Lock::Timeout=300 .* install / }
    ours && sub(/^Install: /, "") {
      count = split($0, named, /\), /)
      for (i = 1; i <= count; i++)
        if (named[i] !~ /, automatic\)?$/) { sub(/:.*/, "", named[i]); print named[i] }
    }
  '
}
"""

# Before apt is called, so that what cuts it off leaves no package that nobody remembers.
NOTE_INSTALLED = r"""
note_installed() (
  set -e
  umask 022; mkdir -p "${installed%/*/*}"
  umask 077; mkdir -p "${installed%/*}"
  # All that was there, so that what comes along with ours is known from what was here.
  [ -e "$installed" ] ||
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' |
    sed -n 's/^installed //p' >"${installed%/*}/packages"
  {
    installed_by_us
    for p in $new; do
      case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) in
        '' | *' not-installed' | *' config-files') echo "$p" ;;
      esac
    done
  } | LC_ALL=C sort -u >"$installed.new"
  if cmp -s "$installed.new" "$installed"; then rm "$installed.new"; exit; fi
  sync "$installed.new"
  mv "$installed.new" "$installed"
)
"""
