# Wait for a pip that works beside other operations.
# Uses: lock, waiting
holders() {
  find /proc/[0-9]*/fd -lname "$lock" 2>/dev/null | cut -d / -f 3 | sort -nu | while read -r pid; do
    echo "$(cat "/proc/$pid/comm" 2>/dev/null) ($pid)"
  done | paste -sd , | sed 's/,/, /g'
}
[ ! -e "$lock" ] || flock -w "$waiting" "$lock" true || {
  [ "$last" ] || { echo "busy $(holders)"; exit 0; }
  echo "celery-pi: pip has not ended after $waiting s: $(holders) holds $lock" >&2
  exit 1; }
