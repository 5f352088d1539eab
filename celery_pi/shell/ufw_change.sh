# Functions that change ufw's settings and rules, and clear its chains.
# Uses: conf
set -e
put() {
  if grep -q "^$2=" "$1"; then sed -i "s/^$2=.*/$2=$3/" "$1"; else echo "$2=$3" >>"$1"; fi
}
noted() {
  grep -qxF "### tuple ### $1" "$conf/user.rules" "$conf/user6.rules" \
    || { echo "ufw does not take the rule $1" >&2; exit 1; }
}
# All of ufw's own chains and nothing else, at once; `ufw reload` would not restore the ways to
# them once those are gone.
clear() {
  "$1-save" -t filter | awk '
    BEGIN { print "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]" }
    /^:ufw/ { chains[++n] = substr($1, 2) }
    /^-A (INPUT|FORWARD|OUTPUT) .*-j ufw/ { sub(/^-A/, "-D"); print }
    END {
      for (i = 1; i <= n; i++) print "-F " chains[i]
      for (i = 1; i <= n; i++) print "-X " chains[i]
      print "COMMIT"
    }
  ' | "$1-restore" -n
}
