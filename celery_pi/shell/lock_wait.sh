# Wait for a dead holder's lease to end; print `held` and the holder if he lives.
# Uses: directory
#
# A holder that died a moment ago looks alive: wait until it renews its lease, or the lease ends.
# shellcheck disable=SC2034  # what follows uses it
sent=$(cat)
first=
while flock 9 && read_holder && ! is_dead; do
  [ "${first:=$holder $at}" = "$holder $at" ] || { echo "held $(cat "$directory/holder")"; exit; }
  flock -u 9
  sleep 1
done
