# Functions of the lock of deploys: `read_holder` and `is_dead`, by the lease.
# Uses: directory, lease
#
# Times are seconds since boot, because a Pi's clock may be set while a deploy runs.
umask 077
[ -d "$directory" ] || mkdir -p "$directory"
exec 9>"$directory/lock"
now() { read -r up _ </proc/uptime; up=${up%%.*}; }
read_holder() {
  holder='' at=0
  [ ! -e "$directory/beat" ] || read -r holder at <"$directory/beat"
  now
}
is_dead() { [ -z "$holder" ] || [ $((up - at)) -ge "$lease" ] || [ "$at" -gt "$up" ]; }
