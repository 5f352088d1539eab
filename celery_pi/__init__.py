"""What runs on the machine that deploys.

`settings`, `component` and `preflight` are what every task begins with; `facts`, `operations` and
`shell` what it is made of; `deploys` makes one deploy of a run of pyinfra, and `plan` tells what it
is going to do. `connector` and `fact_cache` make it quick. `on_the_pi` holds programs that are sent
along and run there.

As soon as pyinfra imports any part of it, a Pi's output is made printable before it is shown.
"""

from celery_pi.terminal import protect

protect()
