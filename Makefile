# Every target sets up what it needs first; `make help` lists them.
SHELL := /bin/bash
SETUP := /usr/bin/python3 tools/setup.py
PYTHON := .venv/bin/python
PYTEST_ARGS ?=
UP_ARGS ?=
SEED ?= 1
ON_SERVERS := $(addprefix tests/,compute identity image metadata network parity placement security)
MINUTES ?= 10
export SUITE
SCRIPTS := guest/build-guest-image guest/smoke-guest-image conformance/run-tempest conformance/run-suites

.DEFAULT_GOAL := help
.PHONY: help setup client-venv tempest-venv peers-venv demo up test check fresh conformance guest-smoke bench sim probe test-databases test-peers test-upgrade clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | while IFS=$$'\t' read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

setup: ## Debian packages, .venv, guest image; nothing to do takes well under a second
	@$(SETUP)

client-venv: ## .venv-clients with the openstack command and SDK
	@$(SETUP) packages clients

tempest-venv: ## .venv-tempest with OpenStack's own test suite
	@$(SETUP) packages tempest

peers-venv: ## .venv-peers with OpenStack's Keystone, Glance and keystonemiddleware
	@$(SETUP) packages peers

demo: ## the main job, step by step: a cloud, a real VM, SSH into it, everything removed again
	@$(SETUP) packages venv guest clients
	@$(PYTHON) tools/demo.py

up: setup ## a cloud in the foreground (UP_ARGS="--driver fake" and so on)
	@.venv/bin/kilonova up $(UP_ARGS)

test: ## the whole test suite (PYTEST_ARGS="-k word" narrows it)
	@$(SETUP) packages venv guest clients
	@$(PYTHON) -m pytest -v -n 2 $(PYTEST_ARGS)

check: setup ## ruff, mypy --strict, import directions, tidy
	@.venv/bin/ruff check --quiet . $(SCRIPTS) && echo "ruff: fine"
	@.venv/bin/mypy && .venv/bin/mypy tools && for s in $(SCRIPTS); do .venv/bin/mypy --scripts-are-modules $$s || exit 1; done
	@if [ -e tests/test_tidy.py ]; then $(PYTHON) -m pytest tests/test_tidy.py; else echo "tests/test_tidy.py is not there yet"; exit 1; fi

fresh: ## make demo and make test on a clean checkout of HEAD in a throw-away bare Debian
	@conformance/bare-root make demo
	@conformance/bare-root make test

conformance: ## OpenStack's own tests against a cloud of its own (SUITE="identity image compute network", or a regex)
	@$(SETUP) packages venv guest tempest
	@$(PYTHON) conformance/run-suites

guest-smoke: setup ## boot the guest image under bare QEMU and try everything in it
	@guest/smoke-guest-image .setup/cirros.qcow2

bench: setup ## the benchmarks of bench/, JSON to bench/out/, a table to the terminal (ONLY="boot reads" for some rows)
	@$(PYTHON) bench/run.py $(BENCH_ARGS) $(ONLY)

sim: setup ## a whole cloud on a virtual clock under seeded faults (SEED=n MINUTES=10); the last line is the digest of its log
	@$(PYTHON) tools/sim.py --seed $(SEED) --minutes $(MINUTES)

probe: setup ## a cloud on eight machines under real faults (as root; SEED=n MINUTES=30); the last line says whether the truth holds
	@$(SETUP) packages venv
	@KILONOVA_STAND=1 $(PYTHON) -m pytest tests/probe/test_stand.py tests/probe/test_tunnels.py
	@$(PYTHON) -m tests.probe --seed $(SEED) --minutes $(if $(filter file,$(origin MINUTES)),30,$(MINUTES)) $(PROBE_ARGS)

test-databases: ## the suite on SQLite, PostgreSQL and MariaDB
	@$(SETUP) packages venv guest clients
	@$(PYTHON) -m pytest -v -n 2 $(PYTEST_ARGS)
	@for engine in postgresql mariadb; do \
		echo "== the services on $$engine"; \
		$(PYTHON) -m tests.engines $$engine $(PYTHON) -m pytest -v -n 2 $(ON_SERVERS) $(PYTEST_ARGS) || exit 1; \
	done

test-peers: ## ours beside theirs: compute on a real Keystone and Glance, keystonemiddleware on our identity
	@$(SETUP) packages venv clients peers
	@$(PYTHON) -m pytest -v tests/peers $(PYTEST_ARGS)

test-upgrade: setup ## an earlier commit and this one in one cloud; every process replaced under load, nothing fails
	@$(PYTHON) -m pytest -v -s tests/upgrade $(PYTEST_ARGS)

clean: ## remove what was made here: environments, stamps, caches (Debian packages stay)
	rm -rf .venv .venv-clients .venv-tempest .venv-peers .setup .mypy_cache .ruff_cache .hypothesis build dist
