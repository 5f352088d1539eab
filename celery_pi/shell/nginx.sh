# Print whether nginx is there, who brought it, and whose files it would read.
# Uses: conf, mark
#
# What is enabled is ours by its first line, Debian's while it is a configuration file that nobody
# has changed since dpkg has put it there, and the owner's otherwise. What leads out of nginx'
# directory is his too, and is not read: others may write there.
packages=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n${Conffiles}\n' nginx nginx-common \
  2>/dev/null)
case $(printf '%s\n' "$packages" | sed -n 's/^nginx //p') in
  '' | not-installed | config-files) ;;
  *) echo installed ;;
esac
! installed_by_us | grep -qxF nginx || echo by-us
case $(systemctl show -p ActiveState -p UnitFileState nginx) in
  *=active* | *=enabled*) echo runs ;;
esac
for file in "$conf/nginx.conf" "$conf/conf.d/"*.conf "$conf/sites-enabled/"*; do
  [ -e "$file" ] || [ -L "$file" ] || continue
  real=$(readlink -f "$file") whose=owner
  case $real in
    "$conf"/*) if [ -f "$real" ]; then
      sum=$(md5sum <"$real")
      ! printf '%s\n' "$packages" | grep -qF " $real ${sum%% *}" || whose=debian
      ! head -n 1 "$real" | grep -q "^$mark" || whose=ours
      # Whoever has set something else in it has no site there.
      if [ "$file" = "$conf/nginx.conf" ]; then
        grep -qE '^[[:space:]]*(server|stream|mail)[[:space:]]*\{' "$real" || whose=debian
      fi
    fi ;;
  esac
  echo "enabled $whose $file"
done
true  # nothing to say is an answer
