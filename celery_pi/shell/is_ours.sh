# `is_ours PATH`: whether a deploy has made the file.
#
# Shell. A deploy of an older version has kept no list: what it made is known by its name, or by the
# text.
before=/var/lib/celery-pi/before
is_ours() {
  case $1 in
    /etc/celery-pi/* | /usr/local/lib/celery-pi/* | /var/lib/celery-pi/* | /run/*) return 0 ;;
    /var/lib/systemd/timers/*) return 0 ;;
    *celery-pi*) [ ! -L "$1" ]; return ;;
  esac
  grep -qxF -e "$1" "$before/ours" 2>/dev/null ||
    { [ -f "$1" ] && [ ! -L "$1" ] && head -c 4096 -- "$1" | grep -qaF 'Managed by celery-pi'; }
}
