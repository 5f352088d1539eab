# Start what was put aside again if the deploy that did it is gone.
# Uses: before, directory, lease, running, units
#
# Who deploys may be gone at any time. Then the queue has its old worker again, which the next
# deploy takes over anew.
while sleep 2; do
  [ -e "$running" ] || exit 0
  read -r up _ </proc/uptime; up=${up%%.*}; at=0
  [ ! -e "$directory/beat" ] || read -r _ at <"$directory/beat"
  [ $((up - at)) -ge "$lease" ] || continue
  while read -r unit enabled active; do
    ours=$(systemctl is-active celery-worker.service celery-beat.service | sort -u)
    [ "$ours" != active ] || break
    if [ ! -e "$units/$unit" ] || grep -qaF 'Managed by celery-pi' "$units/$unit"; then
      systemctl stop "$unit" 2>/dev/null
      cp -a --remove-destination "$before/files$units/$unit" "$units/$unit"
      systemctl daemon-reload
    fi
    [ "$enabled" != enabled ] || systemctl enable --quiet "$unit"
    [ "$active" != active ] || systemctl start --no-block "$unit"
  done <"$before/units"
  rm -f "$running"
done
