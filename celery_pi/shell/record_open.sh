# Keep standard input as a new record of a deploy, remove the oldest, print its number.
# Uses: kept, records
#
# The number is given here, because machines that deploy have clocks of their own.
set -e
umask 022; mkdir -p "${records%/*}"  # nginx and the worker read what is beside it
umask 077; mkdir -p "$records"
rm -f "$records"/*.new
for last in "$records"/*.json; do :; done
number=${last##*/}
number=${number%.json}
case $number in [0-9]*) number=$((1$number - 999999)) ;; *) number=1 ;; esac
number=$(printf %06d "$number")
cat >"$records/$number.new"
sync "$records/$number.new"
mv "$records/$number.new" "$records/$number.json"
set -- "$records"/*.json
while [ $# -gt "$kept" ]; do rm -f "$1"; shift; done
echo "$number"
