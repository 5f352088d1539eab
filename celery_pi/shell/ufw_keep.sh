# Keep ufw's settings and rules as they were before the first change.
# Uses: before, record
#
# Before anything is changed, and never again: what is there later is ours too.
if [ ! -e "$before" ]; then
  (
    umask 022; mkdir -p "${before%/*/*}"
    umask 077; mkdir -p "${before%/*}"
    printf '%s' "${record:?}" >"$before.new"
    sync "$before.new"
    mv "$before.new" "$before"
  )
fi
