# Print listeners, tunnels, web servers and other firewalls of the machine.
# Uses: forwarding, port, servers, tls
#
# The unit of a process is where systemd has put it; of whoever has the ports of Redis alone, since
# for each another file is read.
sockets=$(ss -Hltnup) || exit 1
# Once: it looks at every process.
[ -z "$sockets" ] || printf '%s\n' "$sockets" | sed 's/^/socket /'
of_redis=$(printf '%s\n' "$sockets" | grep -E ":($port|$tls) ")
for pid in $(printf '%s\n' "$of_redis" | sed -n 's/.*users:(("[^"]*",pid=\([0-9]*\).*/\1/p'); do
  unit=$(sed -n 's|^0::.*/||p' "/proc/$pid/cgroup" 2>/dev/null)
  echo "unit $pid $unit"
done
for way in $(grep -ls '^DEVTYPE=wireguard' /sys/class/net/*/uevent) /sys/class/net/*/tun_flags; do
  [ -e "$way" ] || continue
  way=${way%/*}
  ip -o addr show dev "${way##*/}" | awk '{ print "tunnel", $2, $4 }'
done
! command -v wg >/dev/null || wg show all listen-port 2>/dev/null | sed 's/^/wireguard /'
[ ! -e /sys/class/net/docker0 ] || echo docker
grep -lsE "$forwarding" /etc/sysctl.conf /etc/sysctl.d/*.conf | sed 's/^/forwards /'
for p in $servers; do
  ! command -v "$p" >/dev/null || echo "installed $p"
  for w in /etc/systemd/system/*.target.wants/"$p".service; do
    [ ! -L "$w" ] || { echo "enabled $p"; break; }
  done
done
for p in netfilter-persistent firewalld shorewall ferm; do
  ! command -v "$p" >/dev/null || echo "filters $p"
done
echo "root $(stat -f -c %T /)"
[ ! -e /proc/modules ] || [ -d "/lib/modules/$(uname -r)" ] || echo no-modules
