# Complete what dpkg left unfinished, once no other process holds its lock.
# Uses: output, waiting
#
# dpkg takes its lock itself, but does not wait for it. Debian 12's says that "another" process has
# it, and Debian 13's which. Its output goes to a file, as a daemon that a package starts may keep
# it open.
umask 077; mkdir -p "${output%/*}"
end=$(($(date +%s) + waiting))
is_locked() { [ $status != 0 ] && grep -q 'lock was locked by .* process' "$output"; }
while
  LC_ALL=C DEBIAN_FRONTEND=noninteractive dpkg --configure -a --force-confold >"$output" 2>&1
  status=$?
  is_locked && [ "$(date +%s)" -lt $end ]
do sleep 5; done
cat "$output" >&2
! is_locked ||
  echo "celery-pi: another apt or dpkg still works after $waiting s: deploy again later" >&2
rm -f "$output"
(exit $status)
