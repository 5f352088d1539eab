# The front door. Each target is one command that also works by itself; see README.md.

VIRTUAL_PI := virtual-pi
PLATFORM := linux/arm64
RELEASE := 13
HOST :=

# With HOST, a real Pi over ssh; without, the virtual Pi, which is brought up first.
export CELERY_PI_HOST := $(or $(HOST),@docker/$(VIRTUAL_PI))
up := $(if $(HOST),,up)

python := .venv/bin/python
pyinfra := .venv/bin/pyinfra
virtual_pi := $(python) -m tests.virtual_pi
virtual_pi_args = --name $(VIRTUAL_PI) --platform $(PLATFORM) --release $(RELEASE)

python_works := python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null

.DEFAULT_GOAL := help
.PHONY: help deploy plan rotate rollback leave smoke-test prove status audit doctor up shell down test test-fast sets walk attacks troubles earlier cut-off faults bench bench-quick lint lock

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

deploy: .venv/installed $(up) ## Deploy to the virtual Pi, or to HOST=pi@address, and run a task there
	@$(pyinfra) -y inventory.py deploy.py
	@$(MAKE) --no-print-directory smoke-test

plan: .venv/installed $(up) ## Show what a deploy would change; with FULL=1 our own files too
	@$(if $(FULL),CELERY_PI_FULL=1 )$(pyinfra) --dry --diff inventory.py deploy.py

rotate: .venv/installed ## Give every user of Redis a new password, while all goes on
	@$(pyinfra) -y inventory.py tasks.rotation.deploy

rollback: .venv/installed ## Deploy the source and settings of the previous deploy (TO= another)
	@$(python) -m celery_pi.deploys.rollback $(addprefix --to ,$(TO))
	@$(MAKE) --no-print-directory smoke-test

leave: .venv/installed ## Remove celery-pi again: shows the steps, and asks (YES=1 does not ask)
	@$(pyinfra) $(if $(YES),-y) inventory.py tasks.leave.deploy

smoke-test: .venv/installed ## Run a task on the deployed worker and show its result
	@$(pyinfra) inventory.py exec -- /usr/local/bin/celery-pi smoke-test

prove: smoke-test
	@echo "make prove is called make smoke-test now" >&2

status: .venv/installed ## Show how Redis, Celery and the machine are
	@$(pyinfra) inventory.py exec -- /usr/local/bin/celery-pi status

audit: .venv/installed ## Show whether the machine is as closed as the deploy left it
	@$(pyinfra) inventory.py exec -- /usr/local/bin/celery-pi audit

doctor: .venv/installed ## Find the known problems; with FIX=1 repair those that it safely can
	@$(pyinfra) inventory.py exec -- /usr/local/bin/celery-pi doctor $(if $(FIX),--fix)

up: .venv/installed ## Bring up the virtual Pi
	@$(virtual_pi) up $(virtual_pi_args)

shell: .venv/installed ## Open a root shell on the virtual Pi
	@$(virtual_pi) shell $(virtual_pi_args)

down: .venv/installed ## Remove the virtual Pi; its image stays
	@$(virtual_pi) down $(virtual_pi_args)

# Two machines at once on a busy host are slower than some limits of time allow: a module in which a
# test fails is run again, alone. What counts tasks is not, nor is the deploy from nothing.
test: .venv/installed lint ## Run all tests, as CI does
	@command -v redis-check-rdb >/dev/null || { apt-get -q update && apt-get -q -y install redis-tools; }
	@$(python) -m pytest --cache-clear --numprocesses=2 --dist=loadfile --no-loadscope-reorder \
	  --durations=20 || { [ $$? = 1 ] && echo "Running again, alone, what failed above" && \
	  $(python) -m pytest --second-try; }

test-fast: .venv/installed ## Run the tests that need no Docker
	@$(python) -m pytest -m fast

# With ONLY, on one of them, such as ONLY=A; with PYTHON, by another, such as PYTHON=python3.13. The
# newest of the package index makes nothing fail.
sets: .venv/installed ## Run the worker's tests on each tested set of packages; NEWEST=1 adds the newest
	@command -v redis-server >/dev/null || { echo "redis-server is missing: install it" >&2; exit 1; }
	@$(python) -m tests.package_sets $(if $(NEWEST),--newest) $(addprefix --python ,$(PYTHON)) \
	  $(if $(ONLY),"$(ONLY)")

walk: .venv/installed ## Run root's jobs among traps in each directory alone, for about an hour
	@CELERY_PI_ONE_BY_ONE=1 $(python) -m pytest tests/root_jobs

attacks: .venv/installed ## Show on the commit where the attacks succeed that the tests of them see it
	@CELERY_PI_ATTACKS=1 $(python) -m pytest tests/attacks

troubles: .venv/installed ## Show on the commit that did harm to a live site that the tests of it see it
	@CELERY_PI_TROUBLES=1 $(python) -m pytest tests/sites/test_troubles.py

earlier: .venv/installed ## Take over Pis that earlier versions have deployed
	@CELERY_PI_EARLIER=1 $(python) -m pytest tests/machine/test_earlier_versions.py

# With AT, only at the operations whose names have it, such as AT="Redis | Run".
cut-off: export CELERY_PI_CUT_OFF := $(or $(AT),1)
cut-off: .venv/installed ## Kill a deploy onto a live site at each of its operations, for an hour and more
	@$(python) -m pytest -rP --numprocesses=2 tests/sites/test_cut_off.py

# With STEPS=1 only the kills at each step of a canvas, which need no Docker.
faults: .venv/installed ## Measure what faults cost, and write the tables of docs/faults.md
	@$(python) -m tests.faults $(if $(STEPS),--steps)

bench: .venv/installed ## Measure how fast it is, and write docs/benchmarks.md
	@$(python) -m tests.bench

bench-quick: .venv/installed ## See that all of it can be measured; writes nothing
	@$(python) -m tests.bench --quick

lint: .venv/installed
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
	@command -v shellcheck >/dev/null || { apt-get -q update && apt-get -q -y install shellcheck; }
	@shellcheck $$(grep -rlE '^#!(/usr)?/bin/(env )?(ba)?sh' files tests/virtual_pi/image .ci) \
	  celery_pi/shell/*.sh

# Keeps the versions that are in it, as far as pyproject.toml allows; UPGRADE=1 takes the newest. The
# lock of what is installed on the Pi is another: `python -m celery_pi.app_packages`.
lock: ## Write requirements.lock again, after a change of pyproject.toml or with UPGRADE=1; needs uv
	@command -v uv >/dev/null || { echo "uv is missing: pipx install uv" >&2; exit 1; }
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  $(if $(UPGRADE),--upgrade) --group test pyproject.toml --output-file requirements.lock

# The packages are those of the lock file, to the hash. A fresh Debian has no ensurepip.
.venv/installed: requirements.lock
	@$(python_works) || { [ "$$(id -u)" = 0 ] && apt-get -q update && \
	  apt-get -q -y install python3-venv; } || { echo \
	  "Python 3.11 or newer with ensurepip is missing: install it (Debian: python3-venv)." >&2; exit 1; }
	@echo "Installing the Python environment into .venv"
	@python3 -m venv .venv
	@$(python) -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
