# Print the databases of a Redis that was here before us, and who is connected to it.
# Uses: acl, app
#
# The password is in the environment of redis-cli, which only root can look into; its own file is
# read as Redis, since that user can put something else in its place.
[ ! -e "$acl" ] && command -v redis-cli >/dev/null || exit 0
systemctl is-active --quiet redis-server || exit 0
conf=$(read_as redis "$conf" | timeout -s KILL 10 cat)  # which he may keep from ending
configured() { printf '%s\n' "$conf" | sed -n "s/^$1[[:space:]]*//p" | tail -n 1 | tr -d "\"'"; }
port=$(configured port)
[ "$port" != 0 ] || exit 0
password=$(configured requirepass)
ask() { timeout 5 redis-cli -p "${port:-6379}" --no-auth-warning "$@" 2>/dev/null; }
[ -z "$password" ] || export REDISCLI_AUTH="$password"
[ "$(ask ping)" = PONG ] || { echo closed; exit 0; }
ask info keyspace | tr -d '\r' | sed -n 's/^db\([0-9]*\):keys=\([0-9]*\).*/keys \1 \2/p'
ask client list | grep -v 'cmd=client' | sed 's/^/client /'
unset REDISCLI_AUTH password
ss -Htnp "dport = :${port:-6379}" |
  sed -n 's/^[^ ]* *[0-9]* *[0-9]* *\([^ ]*\) .*(("\([^"]*\)",pid=\([0-9]*\).*/\1 \3 \2/p' |
  while read -r from pid name; do
    unit=$(sed -n 's|^0::.*/||p' "/proc/$pid/cgroup" 2>/dev/null)
    user=$(stat -c %U "/proc/$pid" 2>/dev/null)
    if is_of_app "$pid"; then of_app=yes; else of_app=no; fi
    echo "from $from $of_app ${user:--} ${unit:--} $name"
  done
true
