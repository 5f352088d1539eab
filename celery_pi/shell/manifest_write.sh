# Replace the manifest by standard input.
# Uses: file, legacy
set -e
umask 022; mkdir -p "${file%/*}"  # Redis reads what is beside it
umask 077
cat >"$file.new"
sync "$file.new"
mv "$file.new" "$file"
rm -f "$legacy"
