# Have a Redis that kept snapshots only write all that it holds into an append-only file.
# Uses: data
#
# Switched on in the running server, the append-only file begins with all that the server holds;
# switched on by a restart, it would begin empty. Where CONFIG has been renamed, a snapshot does,
# which redis-before-start turns into an append-only file.
set -e
where=$(old_redis config get dir | grep . | tail -n 1)  # behind an error comes an empty line
case $where in
  "$data" | *ERR* | *NOPERM*) ;;
  *) echo "Redis keeps its data in $where: move it to $data first" >&2; exit 1 ;;
esac
# shellcheck disable=SC2034  # of `old_redis`
patience=3600  # seconds: it may have much to write
if [ "$(old_redis config set appendonly yes)" = OK ]; then
  # While a snapshot is being written, it waits for that one.
  for _ in $(seq 600); do
    shown=$(persistence)
    case $shown in *aof_rewrite_in_progress:0*aof_rewrite_scheduled:0*) break ;; esac
    sleep 0.5
  done
  case $shown in
    *aof_rewrite_in_progress:0*aof_rewrite_scheduled:0*aof_last_bgrewrite_status:ok*) ;;
    *) echo "Redis could not write its append-only file; see its log" >&2; exit 1 ;;
  esac
else
  [ "$(old_redis save)" = OK ] || { echo "Redis could not save its data; see its log" >&2; exit 1; }
fi
