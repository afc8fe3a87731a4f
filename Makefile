# Everything starts here: make demo, make test, make check, make bench, make soak.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# What the tests need beyond Python: real checkers, a real nginx, and the tools that make boxes.
PACKAGES := $(shell sed 's/\#.*//' tests/packages.txt)

.PHONY: help demo test check format bench soak faults pictures packages clean

help:
	@echo "make demo    a first look: the true commands against hosts in a folder (no root, no GPU)"
	@echo "make test    everything; as root it installs the Debian packages that the tests need"
	@echo "make check   format, lint, types, import contract"
	@echo "make bench   the benchmarks"
	@echo "make soak    the tests that take longer than CI has"
	@echo "make pictures  the pictures in docs/, of a fleet that is made up (needs chromium)"
	@echo "make faults  every fault at every step of an apply, on real boxes; writes docs/faults.md"

# pip installs pip's target from outside, so that Debian's python3 without python3-venv will do
$(BIN)/ogen: pyproject.toml
	python3 -m venv --without-pip $(VENV)
	python3 -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev: pyproject.toml $(BIN)/ogen
	python3 -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(BIN)/ogen
	@$(BIN)/python tests/demo/demo.py

packages:
	@if [ "$$(id -u)" != 0 ]; then echo "not root: Debian packages are not installed; tests say what they leave out"; \
	elif dpkg-query -W -f '$${db:Status-Abbrev}\n' $(PACKAGES) 2>/dev/null | grep -vq '^ii' || ! dpkg-query -W $(PACKAGES) >/dev/null 2>&1; then \
	    echo "installing what the tests need: $(PACKAGES)"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get -qq update && apt-get -qq -y install --no-install-recommends $(PACKAGES) >/dev/null; \
	fi

# two files at a time, since boxes mostly wait; in a short folder, for nginx's sockets have short paths
test: $(VENV)/dev packages
	folder=$$(mktemp -d /tmp/ogen.XXXX); trap 'rm -rf "$$folder"' EXIT; \
	$(BIN)/python -m pytest -n 2 --dist loadfile --basetemp "$$folder/t"

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev
	@for program in benchmarks/[a-z]*.py; do echo "== $$program"; $(BIN)/python $$program; done

soak: $(VENV)/dev packages
	$(BIN)/python -m pytest -m soak --timeout 7200

pictures: $(VENV)/dev
	$(BIN)/python benchmarks/_pictures.py

faults: $(VENV)/dev packages
	OGEN_FAULTS=1 $(BIN)/python -m pytest tests/e2e/test_faults.py -q -s -m "soak or not soak"

clean:
	rm -rf $(VENV) .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
