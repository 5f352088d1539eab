# Print which packages are missing, and whether dpkg was interrupted or is at work.
# Uses: installed, locks, packages
#
# dpkg keeps its unfinished steps in `updates`; until they are done, apt refuses to do anything.
# While another process holds the lock, those are its steps, and nothing was interrupted.
unfinished=
# shellcheck disable=SC2010  # dpkg numbers them
ls /var/lib/dpkg/updates | grep -q '^[0-9]' && unfinished=1
for p in $packages; do
  case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) in
    *' ok installed') ;;  # wanted, or held where it is
    'install ok '*) unfinished=1; echo "missing $p" ;;
    *) echo "missing $p" ;;
  esac
done
if [ "$unfinished" ]; then
  holder=
  for lock in $locks; do
    inode=$(stat -c %i "$lock" 2>/dev/null) || continue  # dpkg has never run
    pid=$(sed -n "s/^[0-9]*: POSIX .* \([0-9]*\) [0-9a-f]*:[0-9a-f]*:$inode .*/\1/p" /proc/locks)
    [ -z "$pid" ] || holder=${pid%%[!0-9]*}
  done
  if [ -z "$holder" ]; then echo interrupted
  else echo "busy $(cat "/proc/$holder/comm" 2>/dev/null) ($holder)"; fi
fi
[ -e "$installed" ] || echo unrecorded
true  # nothing to say is an answer
