# Print the ports on which root's own ssh servers listen: `find_ssh`.
#
# By the sockets that root's processes of that name have open, real user root's too: any process may
# take the name, and `ss` would show it.
find_ssh() {
  held=" $(for pid in $(pgrep -u 0 -U 0 -x 'sshd|dropbear'); do
    find "/proc/$pid/fd" -lname 'socket:*' -printf '%l ' 2>/dev/null
  done)"
  listening=$(ss -Hltne) || exit 1
  printf '%s\n' "$listening" | awk -v held="$held" '
    match($0, / ino:[0-9]+ /) {
      socket = " socket:[" substr($0, RSTART + 5, RLENGTH - 6) "] "
      if (index(held, socket)) { sub(/.*:/, "", $4); print "ssh", $4 }
    }'
}
