# Print what the checkers of the owner's daemons say of his configurations.
# Uses: aside, candidate, fail2ban, most, patience, rotation, stamp
#
# A checker that finds nothing wrong prints nothing. nginx makes its file of a process where there is none.
[ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$(digest)" ] || { echo good; exit 0; }
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
limit() { timeout -k 5 "$patience" "$@"; }
say() {
  [ "$2" != 124 ] || echo "$1 does not end within $patience s"
  sed "s/^/$1 /" "$scratch/output" | tail -n "$most"
}
check() {
  limit "$@" >"$scratch/output" 2>&1 </dev/null || { status=$?; return 1; }
}
# A copy of what the daemon reads, with our files empty, and without those that are put aside.
copy() {
  rm -rf "$scratch/copy"; cp -a "$1" "$scratch/copy"
  find "$scratch/copy" -name '*celery-pi*' -type f -exec truncate -s 0 {} +
  for f in $aside; do
    case $f in "$1"/*) rm -f "$scratch/copy/${f#"$1"/}" ;; esac
  done
}
if command -v nginx >/dev/null; then
  [ -e /run/nginx.pid ] || new=yes
  check nginx -t -q || {
    copy /etc/nginx
    # shellcheck disable=SC2016  # the inner shell's own argument
    check unshare --mount sh -c 'mount --bind "$1" /etc/nginx && exec nginx -t -q' \
      check "$scratch/copy" || say nginx "$status"
  }
  [ -z "${new-}" ] || [ -s /run/nginx.pid ] || rm -f /run/nginx.pid
fi
! command -v apache2ctl >/dev/null || check apache2ctl configtest || say apache2 "$status"
if command -v fail2ban-client >/dev/null; then
  copy /etc/fail2ban
  # What ours says of it: there is no auth.log, without which Debian 12's own would not start.
  printf '[sshd]\nbackend = systemd\n' >"$scratch/copy/jail.d/zz-celery-pi.conf"
  jails() {
    limit fail2ban-client -c "$scratch/copy" -d >"$scratch/jails" 2>"$scratch/output" || return
    limit /usr/bin/python3 -I -B -c "$fail2ban" <"$scratch/jails" >"$scratch/output" 2>&1
  }
  jails </dev/null || say fail2ban "$?"
fi
if [ -x /usr/sbin/sshd ]; then
  check /usr/sbin/sshd -t || grep -q 'privilege separation directory' "$scratch/output" ||
    say sshd "$status"
fi
! command -v visudo >/dev/null || check visudo -c || say sudo "$status"
if command -v logrotate >/dev/null; then
  copy /etc/logrotate.d
  printf '%s' "$candidate" >"$scratch/copy/celery-pi"
  sed "s|^\([[:space:]]*include[[:space:]]*\)/etc/logrotate.d[[:space:]]*\$|\1$scratch/copy|" \
    /etc/logrotate.conf >"$scratch/conf"
  chmod 0644 "$scratch/conf"
  limit logrotate -d "$scratch/conf" >"$scratch/all" 2>&1 </dev/null
  sed -n "s|$scratch/copy|/etc/logrotate.d|g; s/^error: /logrotate /p" "$scratch/all" |
    awk '!printed[$0]++' | head -n "$most"
  for f in "$scratch/conf" "$scratch/copy"/*; do
    case $f in */conf) file=/etc/logrotate.conf ;; *) file=/etc/logrotate.d/${f##*/} ;; esac
    [ "$file" = "$rotation" ] || [ ! -f "$f" ] || sed -n "s|^\([^#{]*/[^#{]*\){.*|names $file \1|p
      s|^[[:space:]]*\(/[^#{]*\)\$|names $file \1|p" "$f"
  done
fi
echo checked
