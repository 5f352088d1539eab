for unit in $units; do
  case $(systemctl show -p LoadState -p ActiveState "$unit") in
    *=loaded* | *=active* | *=failed*) echo "$unit" ;;
  esac
done
for path in $paths; do echo "$path"; done
