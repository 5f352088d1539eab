set -e
umask 077
cat >"$records/$number.new"
sync "$records/$number.new"
mv "$records/$number.new" "$records/$number.json"
