# `is_of_app PID`: whether the process works in the app's directory, or names it in its command line.
# Uses: app
#
# A process may have a command line as large as its memory (prctl(2), PR_SET_MM_MAP). One that has
# just ended has none, and no error is to tell so.
is_of_app() {
  case $(readlink "/proc/$1/cwd") in "$app" | "$app"/*) return 0 ;; esac
  { echo; timeout -s KILL 5 head -c 1048576 -- "/proc/$1/cmdline" 2>/dev/null; echo; } |
    tr '\0\n' '  ' | grep -qF -e "$app/" -e " $app "
}
