# Change settings of the running Redis; the arguments are names and values.
# Uses: work
as_admin config set "$@" >"$work/replies" 2>&1
[ "$(cat "$work/replies")" = OK ] || { cat "$work/replies" >&2; exit 1; }
while [ $# -gt 0 ]; do
  now=$(as_admin config get "$1" | tail -n 1)
  [ "$now" = "$2" ] || { echo "Redis keeps $1 at $now and does not take $2" >&2; exit 1; }
  shift 2
done
