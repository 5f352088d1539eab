# Print the lines in which the owner configures fail2ban's jail for ssh.
# Uses: directory
#
# In the order in which fail2ban reads them, but for Debian's and ours; of each only what is said of
# all jails and of ssh's.
set --
for file in "$directory/jail.conf" "$directory/jail.d/"*.conf "$directory/jail.local" \
  "$directory/jail.d/"*.local; do
  case ${file##*/} in defaults-debian.conf | zz-celery-pi.conf) continue ;; esac
  [ ! -f "$file" ] || set -- "$@" "$file"
done
[ $# = 0 ] || timeout 5 awk '
  FNR == 1 { print "file " FILENAME; on = 0 }
  /^\[/ { on = /^\[(DEFAULT|sshd)\]/ }
  on && NF && !/^[#;]/
' "$@"
