# Client of a Redis that was here before the first deploy: `old_redis COMMAND`.
# Uses: config
#
# The password of such a server stands in its configuration, as a word or in quotes. It is read by
# the server's user, whose directory that is, so that he cannot lead root elsewhere. What listens at
# the port he has written there may keep silent, or never end.
configured() {
  timeout 10 setpriv --reuid=redis --regid=redis --init-groups --reset-env \
    head -c 1000000 "$config" </dev/null 2>/dev/null |
    timeout -s KILL 15 sed -n "s/^$1[[:space:]]*//p" | tail -n 1
}
old_redis() {
  REDISCLI_AUTH=$(configured requirepass | sed 's/^"\(.*\)"[[:space:]]*$/\1/')
  [ -z "$REDISCLI_AUTH" ] || export REDISCLI_AUTH
  port=$(configured port)
  timeout -s KILL "${patience:-10}" redis-cli -p "${port:-6379}" "$@" | head -c 16777216
}
persistence() { old_redis info persistence | tr -d '\r'; }
