# Have the running Redis go by the users of the ACL file.
# Uses: acl, work
#
# A user's rules are replaced as a whole and in one step; ACL LOAD would cut every connection.
while read -r word name rules; do
  [ "$word" != user ] || printf 'acl setuser %s reset %s\n' "$name" "$rules"
done <"$acl" >"$work/commands"
sed -n 's/^acl setuser \([^ ]*\) .*/\1/p' "$work/commands" | sort >"$work/declared"
as_admin acl users | sort | comm -23 - "$work/declared" | sed 's/^/acl deluser /' >>"$work/commands"
as_admin <"$work/commands" >"$work/replies" 2>&1
if grep -v -e '^OK$' -e '^[01]$' "$work/replies" >&2; then exit 1; fi
