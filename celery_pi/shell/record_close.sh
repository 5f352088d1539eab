# Replace the record of a deploy by standard input.
# Uses: number, records
set -e
umask 077
cat >"$records/$number.new"
sync "$records/$number.new"
mv "$records/$number.new" "$records/$number.json"
