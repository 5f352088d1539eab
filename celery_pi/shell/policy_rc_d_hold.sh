# Put policy-rc.d in place while this shell lives, unless somebody else has one.
# Uses: lock, mark, policy, text
if [ ! -e "$policy" ] || grep -qxF "$mark" "$policy"; then
  # shellcheck disable=SC2174  # its parent is there
  mkdir -p -m 0700 "${lock%/*}"
  exec 9>"$lock"
  flock 9
  trap 'rm -f "$policy"' EXIT
  printf '%s' "$text" >"$policy.new"
  chmod 0755 "$policy.new"
  mv "$policy.new" "$policy"
fi
