# Print `name=value` of each thing that preflight wants to know of a machine.
# Uses: app, files, module, newest, units, user, venv
echo "newest=$newest"
# shellcheck disable=SC1091  # it is the machine's own
. /etc/os-release
echo "os=$ID"
echo "release=${VERSION_ID:-}"
echo "architecture=$(dpkg --print-architecture 2>/dev/null || uname -m)"
echo "init=$(cat /proc/1/comm)"
echo "container=$(systemd-detect-virt --container)"
echo "uid=$(id -u)"
echo "disk=$(df -Pm /var | awk 'NR == 2 { print $4 }')"
echo "memory=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)"
# A container may be allowed less than its host has.
echo "allowed=$(awk '{ print int($1 / 2 ^ 20) }' /sys/fs/cgroup/memory.max 2>/dev/null)"
grep -qsw memory /sys/fs/cgroup/cgroup.controllers && echo "counted=yes"
[ -d "$app" ] && echo "app=yes"
id -u "$user" >/dev/null 2>&1 && echo "user=yes"
for f in "$app/$module.py" "$app/$module/celery.py" "$app/$module/__init__.py"; do
  [ -e "$f" ] && echo "module=$f"
done
root=$([ "$(id -u)" != 0 ] || echo yes)
# A file of the owner's as the app's user reads it, or else the owner of the app's directory.
read_as_owner() {
  read_as "$user" "$1" || { owner=$(stat -c %U "$app") && read_as "${owner#root}" "$1"; }
}
[ -n "$root" ] && [ -d "$venv" ] && echo "venv=$(read_as_owner "$venv/pyvenv.cfg" \
  | timeout -s KILL 15 sed -n 's/^version *= *\([0-9][0-9.]*\).*/\1/p' | head -n 1)"
[ -d "$venv" ] || for name in .venv venv env; do
  [ ! -f "$app/$name/pyvenv.cfg" ] || { echo "other=$name"; break; }
done
[ -n "$root" ] && [ -e "$app/.env" ] && echo "export=$(read_as_owner "$app/.env" \
  | timeout -s KILL 15 grep -nE '^[[:space:]]*export[[:space:]]' | cut -d: -f1 | paste -sd' ')"
unknown=
for u in $units; do
  [ "$(systemctl show -p LoadState --value "$u")" = loaded ] || unknown="$unknown $u"
done
[ -n "$unknown" ] && echo "unknown=${unknown# }"
absent=
for f in $files; do [ -e "$f" ] || absent="$absent $f"; done
[ -n "$absent" ] && echo "absent=${absent# }"
# Whoever listens where a web server does.
echo "web=$(ss -Hltnp 'sport = :80 or sport = :443' 2>/dev/null \
  | sed -n 's/.*users:(("\([^"]*\)".*/\1/p' | sort -u | paste -sd' ')"
true  # what was not found is an answer
