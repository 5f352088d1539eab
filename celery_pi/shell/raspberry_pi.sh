# Print model, kernel, swap and watchdog of a Raspberry Pi; nothing on any other machine.
# Uses: counted, swap, watchdog
#
# The kernel's own path: /proc/device-tree leads there.
model=$(tr -d '\0' </sys/firmware/devicetree/base/model 2>/dev/null)
case $model in "Raspberry Pi"*) echo "model $model" ;; *) exit 0 ;; esac
echo "kernel $(uname -r)"
grep -qsw memory /sys/fs/cgroup/cgroup.controllers && echo counted
grep -qw "$counted" /proc/cmdline && echo requested
grep -q ^/dev/zram /proc/swaps && echo zram
[ -e /sys/class/zram-control ] || modprobe -nq zram 2>/dev/null && echo able
[ -e /etc/rpi/swap.conf ] && echo rpi-swap
[ -e "$swap" ] && echo our-swap
[ -c /dev/watchdog0 ] && echo watchdog
[ -e "$watchdog" ] && echo our-watchdog
echo "watched $(systemctl show -p RuntimeWatchdogUSec --value)"
