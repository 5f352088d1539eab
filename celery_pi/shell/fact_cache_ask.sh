# Head of the file of facts: `ask DIGEST COMMAND` prints the answer to one fact.
#
# Each fact runs in a shell of its own, without arguments and input, as it would by itself. A line
# with the end marker follows its output, on standard output with digest and exit status, and on
# standard error. Facts that this run has used already are left out, since they are rarely used
# again. Two of these scripts work beside each other, each on every other fact.
ask() {
  celery_pi_turn=$((1 - celery_pi_turn))
  case $celery_pi_part in "$celery_pi_turn" | "") ;; *) return ;; esac
  case $celery_pi_done in *$1*) return ;; esac
  celery_pi_digest=$1 celery_pi_asked=$2
  set --
  (eval "$celery_pi_asked") </dev/null
  celery_pi_status=$?
  printf '\n%s %s %s\n' "$celery_pi_end" "$celery_pi_digest" "$celery_pi_status"
  printf '\n%s\n' "$celery_pi_end" >&2
}
celery_pi_end=$1 celery_pi_done=${2-} celery_pi_part=${3-} celery_pi_turn=0
