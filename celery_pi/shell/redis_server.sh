# Print whether Redis answers, whether it has our users, and its settings.
# Uses: acl, names, record, unit
if [ "$(systemctl is-active "$unit")" = active ] && [ -e "$acl" ] \
  && [ "$(as_admin acl whoami 2>&1)" = admin ]; then
  echo answers
  [ "$(users)" != "$(cat "$record" 2>&1)" ] || echo users
  # shellcheck disable=SC2086  # a list of words
  as_admin config get $names
fi
