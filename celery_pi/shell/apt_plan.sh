# Print what apt would remove for the packages that are missing, its errors, and who holds its lock.
# Uses: packages
#
# Its cache stays in memory, so that not even that is written. Without lists nothing is known yet,
# and what dpkg has left unfinished, the deploy completes.
missing=
for p in $packages; do [ -e "${p#*:}" ] || missing="$missing ${p%%:*}"; done
[ -n "$missing" ] || exit 0
inode=$(stat -c %i /var/lib/dpkg/lock-frontend 2>/dev/null) || inode=none
pid=$(awk -v end=":$inode" 'substr($6, length($6) - length(end) + 1) == end { print $5; exit }' \
  /proc/locks)
[ -z "$pid" ] || echo "busy $(cat "/proc/$pid/comm" 2>/dev/null)"
# shellcheck disable=SC2086  # a list of words
LC_ALL=C timeout 120 apt-get -s -q -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
  install $missing 2>&1 </dev/null |
  sed -n 's/^Remv \([^ ]*\).*/removes \1/p; s/^E: /error /p'
true
