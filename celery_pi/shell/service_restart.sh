# Start a unit again, wait until it is ready, and record what it was started with.
# Uses: check, managed, ready, record, unit, verb
#
# The record is written after the service is up, from what lay on the disk before it started:
# whatever cuts the run off in between, the next run finds them different and starts again.
# systemd is not asked whether it needs the reload: NeedDaemonReload says no for a drop-in whose
# directory is new (systemd 252), and for a unit whose file was away when it last looked.
set -e
before=$(snapshot)
# A check may look at the unit, and is to see it as it lies on the disk: with another user, say.
[ "$check" = true ] || systemctl daemon-reload
if ! (eval "$check") >&2; then
  echo "$unit is not started again: what runs is left as it is" >&2
  exit 1
fi
shown=$(systemctl show -p ActiveState -p UnitFileState "$unit")
case $managed$shown in
  yes*UnitFileState=enabled* | no*) [ "$check" != true ] || systemctl daemon-reload ;;
  *) systemctl enable --quiet "$unit" ;;  # which has systemd reload too
esac
case $shown in *ActiveState=failed*) systemctl reset-failed "$unit" ;; esac
if ! { timeout -k 30 1d systemctl "$verb" "$unit" && (eval "$ready"); } >&2; then
  journalctl -q -o cat -u "$unit" -n 50 | grep -a '^celery-pi: ' | tail -n 1 >&2
  echo "$unit did not come up; see: journalctl -u $unit -n 50" >&2
  exit 1
fi
# shellcheck disable=SC2174  # its parent is there
mkdir -p -m 0700 "${record%/*}"
printf '%s\n' "$before" >"$record.new"
mv -f "$record.new" "$record"
