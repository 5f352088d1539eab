# Print ufw's settings and rules, whether they are in force, and where ssh comes in.
# Uses: before, conf, default, ipv6, unit
#
# Before ufw is installed there is nothing to read, which is an answer. The ports of ssh are those
# that its server listens on, by itself or by systemd, and that of the session which asks: sudo
# takes that out of the environment, but not out of its parents'.
sed -n 's/^\([A-Z0-9_]*\)="\{0,1\}\([A-Za-z]\{1,\}\)"\{0,1\}$/setting \1 \2/p' \
  "$default" "$conf/ufw.conf" 2>/dev/null
sed -n 's/^### tuple ### */rule /p' "$conf/user.rules" "$conf/user6.rules" 2>/dev/null
case $(systemctl show -p ActiveState -p UnitFileState "$unit") in
  *ActiveState=active*UnitFileState=enabled*) echo boot ;;
esac
! in_force || echo loaded
[ ! -e "$ipv6" ] || echo ipv6
[ ! -e "$before" ] || sed 's/^/before /' "$before"
find_ssh
if systemctl is-active --quiet ssh.socket; then
  systemctl show -P Listen ssh.socket | sed -n 's/^.*:\([0-9]*\) (Stream)$/ssh \1/p'
fi
pid=$$
while [ "$pid" -gt 1 ]; do
  tr '\0' '\n' <"/proc/$pid/environ" \
    | sed -n 's/^SSH_CONNECTION=\([^ ]*\) [^ ]* [^ ]* \([0-9]*\)$/session \1 \2/p'
  pid=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status")
done
