# Client of our Redis, as its admin: `as_admin COMMAND`; `users` prints a digest of its users.
# Uses: acl
#
# While passwords change, the server may know only the old one. Of the users' list only a digest
# is shown, because it holds hashes of passwords; without a default that ACL SETUSER leaves in the
# list and a start of the server does not, and in an order of our own: that of Redis 7.0's rules
# is another after each start.
# shellcheck disable=SC2016  # the dollars are awk's own
words='{ for (i = 3; i <= NF; i++) if ($i != "sanitize-payload") print $2, $i }'
as_admin() { timeout -k 5 60 /usr/local/lib/celery-pi/redis-cli admin "$@"; }
users() {
  echo "$(as_admin acl list | awk "$words" | sort | sha256sum) $(sha256sum <"$acl")"
}
