# Print Redis' users from before the first deploy, as lines of its ACL.
# Uses: file, record, unit
#
# What a server that we have not started knows. One that does not answer, or is too old for ACLs,
# has none.
if [ -e "$file" ]; then
  echo kept
  cat "$file"
elif [ ! -e "$record" ] && [ "$(systemctl is-active "$unit")" = active ]; then
  old_redis acl list 2>/dev/null | grep '^user ' || true
fi
