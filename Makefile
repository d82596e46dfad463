# Every target sets itself up; what is there already is not made again (backend/installation.py).

.PHONY: help run test soak check docs screenshots audit lock bench runtime mlflow development \
	label-studio
.DEFAULT_GOAL := help
.SUFFIXES:
.NOTPARALLEL:

# The oldest that fits: compiled packages appear last for the newest Python.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
ENSURE = @"$(or $(PYTHON),python3)" backend/installation.py
# Which version of everything is taken, with the hashes of its files: made by `make lock`, but for
# the second, which says how it is made.
LOCKS = constraints.txt constraints-torch-cpu.txt
LOCKED = $(LOCKS:%=--lock %)
RUNTIME = .venv requirements.txt --no-deps requirements-nodeps.txt $(LOCKED)

help:
	@echo 'make run                  start everything: the backend, and a local Label Studio with a'
	@echo '                          demo project unless LABEL_STUDIO_URL is set; Ctrl-C stops it'
	@echo 'make run IMAGES=folder    the same, the demo project filled with your own images'
	@echo 'make test                 every test, with the real servers and a browser'
	@echo 'make test ARGS="..."      the same by one pytest, with these arguments'
	@echo 'make soak                 the tests that take long: kill everything at every stage, for'
	@echo '                          SOAK_S seconds (900), and print what it took to recover;'
	@echo '                          altered inputs for FUZZ_MINUTES (10)'
	@echo 'make check                lint, format, security lint, types, import direction, documents'
	@echo 'make docs                 build the documents as a site, site/index.html; a link that leads'
	@echo '                          nowhere or to another host for a file is an error'
	@echo 'make screenshots          start the demo, take the pictures of docs/pictures anew, label and'
	@echo '                          look back as a new user does (test-artifacts/walkthrough), stop'
	@echo '                          it; some thirty minutes'
	@echo 'make audit                known weaknesses of all that is locked (needs the network)'
	@echo 'make mlflow               add mlflow-skinny, for MLFLOW_TRACKING_URI'
	@echo 'make lock                 choose the version of every package anew (needs the network)'
	@echo 'make bench                measure, print the table, write bench.json'

runtime:
	$(ENSURE) $(RUNTIME)

# What MLFLOW_TRACKING_URI needs; the tests have it too.
mlflow: runtime
	$(ENSURE) .venv requirements.txt requirements-mlflow.txt $(LOCKED)

# Our own pins come first: what development adds is resolved together with them.
development: runtime
	$(ENSURE) .venv requirements.txt requirements-mlflow.txt requirements-dev.txt --no-deps requirements-dev-nodeps.txt $(LOCKED)

label-studio:
	$(ENSURE) .venv-label-studio --source requirements-label-studio-source.txt \
		--lock constraints-label-studio.txt

# exec: signals reach the supervisor itself, and no shell is left to complain after Ctrl-C.
run: runtime
	@exec .venv/bin/python -m backend run $${IMAGES:+--images "$$IMAGES"}

test: development label-studio
	@exec .venv/bin/python -m $(if $(ARGS),pytest $(ARGS),tests)

SOAK_S ?= 900
FUZZ_MINUTES ?= 10

soak: development label-studio
	@CHAOS_S=$(SOAK_S) FUZZ_MINUTES=$(FUZZ_MINUTES) exec .venv/bin/python -m pytest -m soak -s $(ARGS)

check: development docs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/bandit --quiet --recursive --configfile pyproject.toml acquisition training backend _wsgi.py
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

docs:
	$(ENSURE) .venv-docs requirements-docs.txt --lock constraints-tools.txt
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

screenshots: development label-studio
	@exec .venv/bin/python -m tests.screenshots

# Not in check: it asks the Python Packaging Advisory Database over the network. One lock at a time,
# since Label Studio has other versions of some packages.
AUDITED = constraints.txt constraints-label-studio.txt constraints-tools.txt

audit:
	$(ENSURE) .venv-audit requirements-audit.txt --lock constraints-tools.txt
	@failed=0; for lock in $(AUDITED); do echo "$$lock:"; \
		.venv-audit/bin/pip-audit --strict --require-hashes --disable-pip -r $$lock || failed=1; \
	done; exit $$failed

# After a change of a requirements file. Versions stay as they are where they fit; ARGS=--upgrade
# takes the newest. It asks the package index.
COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock' $(ARGS)

lock:
	$(ENSURE) .venv-lock requirements-lock.txt --lock constraints-tools.txt
	$(COMPILE) requirements.txt requirements-nodeps.txt requirements-mlflow.txt \
		requirements-dev.txt requirements-dev-nodeps.txt --output-file constraints.txt
	$(COMPILE) --no-config requirements-label-studio.txt --output-file constraints-label-studio.txt
	$(COMPILE) --no-config requirements-audit.txt requirements-lock.txt requirements-docs.txt \
		--output-file constraints-tools.txt

bench: development label-studio
	@exec .venv/bin/python -m tests.bench $(ARGS)
