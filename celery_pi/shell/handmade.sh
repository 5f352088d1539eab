# Print what of Celery somebody has set up by hand for this app.
# Uses: app, cron, names, units
#
# A line each: what it is, its name or path, and a word more. Of a unit: what it runs. The files are
# root's, in directories of root's.
cd /
ours_of_systemd() { grep -lE '^[[:space:]]*ExecStart=.*celery' "$units"/*.service 2>/dev/null; }
kind() {
  line=$(grep -E '^[[:space:]]*ExecStart=' -A 9 -- "$1" | tr '\n' ' ')
  case $line in
    *celery*beat*) echo beat ;; *celery*flower*) echo flower ;; *celery*) echo worker ;;
    *) echo other ;;
  esac
}
{ ours_of_systemd; for name in $names; do echo "$units/$name"; done; } | sort -u |
while read -r file; do
  [ -e "$file" ] || [ -L "$file" ] || continue
  is_ours "$file" && continue
  case " $names " in
    *" ${file##*/} "*) ;;
    *) grep -qF -e "$app" -- "$file" || continue ;;
  esac
  echo "unit ${file##*/} $(kind "$file")"
done
# Beside a unit of ours they are the owner's to have.
for name in $names; do
  [ ! -e "$units/$name" ] || ! is_ours "$units/$name" || continue
  for file in "$units/$name.d"/*.conf; do
    [ ! -e "$file" ] || is_ours "$file" || echo "dropin $file -"
  done
done
# shellcheck disable=SC2013  # paths without blanks
for file in $(grep -lE "$app/[^ ]*\.log|/celery/[^ ]*\.log" /etc/logrotate.d/* 2>/dev/null); do
  is_ours "$file" || echo "logrotate $file -"
done
for file in /etc/cron.d/* /var/spool/cron/crontabs/*; do
  [ -f "$file" ] || continue
  ! grep -vE '^[[:space:]]*#|celery-pi' -- "$file" | grep -qiE -e "$cron" || echo "cron $file -"
done
# Whatever of Celery runs for this app in no unit that can be put aside.
# A process may have a command line as large as its memory (prctl(2), PR_SET_MM_MAP).
# shellcheck disable=SC3045  # dash has ulimit -v
running=$(ulimit -v 524288; timeout -s KILL 30 pgrep -f 'celery.*(worker|beat|flower|multi)' 2>&1)
[ $? -le 1 ] || { echo "celery-pi: pgrep cannot look through the processes: $running" >&2; exit 1; }
for pid in $running; do
  [ "$pid" != $$ ] || continue
  is_of_app "$pid" || continue
  unit=$(sed -n 's,.*/\([^/]*\.\(service\|scope\)\).*,\1,p' "/proc/$pid/cgroup" 2>/dev/null |
    head -n 1)
  echo "process ${unit:-none} $pid"
done | sort -u -k2,2
