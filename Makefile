# Paths are relative, so that the project may lie in a folder with blanks in its name.
PYTHON ?= python3
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-fast lock vendor

help:
	@echo 'make run       set up what is missing and start the portal; Ctrl-C ends it'
	@echo '                 ARGS="--port 9000 --host 0.0.0.0"   options of manage.py up'
	@echo 'make test      all checks and tests'
	@echo '                 ARGS="tests/portal -k invitation"   only these tests'
	@echo 'make test-fast the quick tests: no database, no browser, no processes of their own'
	@echo 'make lock      write requirements.lock from what is installed'
	@echo 'make vendor    fetch the browser libraries again and check them'
	@echo
	@echo 'Variables, in the environment or after the target:'
	@echo '  PYTHON                 Python 3.11 or newer (default: python3)'
	@echo '  TORCH_SPEC             the torch build to install (default: torch==2.13.0)'
	@echo '  TORCH_INDEX_URL        package index to take torch from, such as one of CPU or CUDA builds'
	@echo '  TUNEPORT_ACCEPT_CUDA   1: take a torch with CUDA libraries on a machine without an NVIDIA GPU'
	@echo '  TUNEPORT_DATA_DIR      where all data go (default: var)'
	@echo '  DATABASE_URL           a PostgreSQL server to use instead of the embedded one'

run:
	@"$(PYTHON)" bootstrap.py run $(ARGS)

test:
	@"$(PYTHON)" bootstrap.py test $(ARGS)

test-fast:
	@"$(PYTHON)" bootstrap.py test --fast

lock:
	@"$(PYTHON)" bootstrap.py lock

vendor:
	@"$(PYTHON)" -m portal.vendoring
