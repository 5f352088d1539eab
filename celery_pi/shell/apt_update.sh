# Fetch the package lists; `update_lists` calls apt.
# Uses: output, waiting
#
# `update` does not know the lock's time-out: another apt makes it fail at once. After any other
# failure it is tried three times. One dead source, where others answer, keeps nobody from what
# those have.
umask 077; mkdir -p "${output%/*}"
tries=0 end=$(($(date +%s) + waiting))
while
  update_lists >"$output" 2>&1
  status=$?
  if grep -q '^E: Could not get lock' "$output"; then [ "$(date +%s)" -lt $end ]
  else tries=$((tries + 1)); [ $status != 0 ] && [ $tries -lt 3 ]; fi
do sleep 10; done
cat "$output" >&2
[ $status = 0 ] || grep -qE '^(Hit|Get):' "$output"
