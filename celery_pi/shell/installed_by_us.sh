# `installed_by_us` prints the Debian packages that deploys have installed.
# Uses: history, installed
#
# A Pi that older deploys have made has no record. apt's own log then shows what they installed: no
# other command line has our lock's time-out. What it does not show was there before us.
installed_by_us() {
  if [ -e "$installed" ]; then cat "$installed"; return; fi
  for log in "$history" "$history".*; do
    # One that is missing is an answer.
    case $log in *.gz) gzip -dc "$log" ;; *) cat "$log" ;; esac 2>/dev/null || true
  done | awk '
    /^Commandline: / { ours = / -o DPkg::Lock::Timeout=300 .* install / }
    ours && sub(/^Install: /, "") {
      count = split($0, named, /\), /)
      for (i = 1; i <= count; i++)
        if (named[i] !~ /, automatic\)?$/) { sub(/:.*/, "", named[i]); print named[i] }
    }
  '
}
