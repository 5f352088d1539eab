# Print the units that systemd knows, and the paths that are there.
# Uses: paths, units
for unit in $units; do
  case $(systemctl show -p LoadState -p ActiveState "$unit") in
    *=loaded* | *=active* | *=failed*) echo "$unit" ;;
  esac
done
for path in $paths; do echo "$path"; done
