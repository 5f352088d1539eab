# Paths of a virtual environment; `ready` succeeds if it has a Python and pip.
#
# All of this is done as the owner of the environment: what lies there is his, and a link or a FIFO
# of his must lead nobody else anywhere.
# Names and versions come from the folders that pip itself goes by: no Python has to start, which
# takes seconds on a Pi. Only the packages of the Python that the environment has now count: after
# an upgrade of Debian it has a newer one, which sees none of the old.
# shellcheck disable=SC2034  # what follows uses it
venv=$1 record=$2
shift 2
python=$(readlink -f "$venv/bin/python" || true)  # without an environment there is none
packages=$venv/lib/${python##*/}/site-packages
ready() { [ -x "$python" ] && ls "$packages"/pip-*/RECORD >/dev/null 2>&1; }
