# Make a directory in memory for the program of `make leave`; `put NAME BASE64` fills it.
#
# In memory, so that a plan changes nothing.
umask 022
scratch=$(mktemp -d /run/celery-pi-leave.XXXXXX)
mkdir "$scratch/celery_pi_tools"
chmod 0755 "$scratch"  # other users run parts of it, in which there is no secret
trap 'rm -rf "$scratch"' EXIT
put() { printf '%s' "$2" | base64 -d >"$scratch/$1"; }
