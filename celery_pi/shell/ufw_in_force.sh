# `in_force`: whether the kernel holds the rules that ufw has written down.
# Uses: conf, ipv6
#
# In force is what each chain of ufw's holds as many rules of as its files, and to which the
# kernel's own chains lead. Beside what the files say, ufw leads from its own to the user's chains.
holds() {
  {
    cat "$conf/before$1.rules" "$conf/user$1.rules" "$conf/after$1.rules"
    echo kernel
    "ip$1tables-save" -t filter
  } 2>/dev/null | awk '
    $0 == "kernel" { kernel = 1 }
    !kernel && /^-[AI] ufw/ { declared[$2]++ }
    kernel && /^-A ufw/ { held[$2]++ }
    kernel && /^:INPUT DROP|^:FORWARD DROP|^:OUTPUT ACCEPT/ { policies++ }
    kernel && /^-A (INPUT|FORWARD|OUTPUT) -j ufw/ { ways[$2]++ }
    END {
      for (chain in declared) {
        to_users = chain ~ /-before-(input|output|forward)$/
        if (held[chain] != declared[chain] + to_users) exit 1
      }
      exit policies != 3 || ways["INPUT"] != 6 || ways["FORWARD"] != 6 || ways["OUTPUT"] != 6
    }
  '
}
in_force() { holds "" && { [ ! -e "$ipv6" ] || holds 6; }; }
