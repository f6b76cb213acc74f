# `make reproduce` runs the default experiment, `make test` the tests; both need Python 3.11+, git and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= $(VENV)-peers
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
EXPERIMENT ?= config.yaml
CORES ?= all

.PHONY: reproduce test check format clean

reproduce: $(VENV)/workflow  ## install, then run the default experiment (or EXPERIMENT=experiments/NAME.yaml)
	PATH="$(abspath $(BIN)):$$PATH" snakemake --cores $(CORES) --configfile $(EXPERIMENT)

test: $(VENV)/tests $(PEERS)/ready  ## install, then run the tests
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 DECONFOUND_PEERS="$(abspath $(PEERS))" python -m pytest -n auto --dist loadfile $(PYTEST)

check: $(VENV)/tests  ## format, lint and types
	PATH="$(abspath $(BIN)):$$PATH" ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" ruff check .
	PATH="$(abspath $(BIN)):$$PATH" snakefmt --check Snakefile workflow
	PATH="$(abspath $(BIN)):$$PATH" snakemake --lint
	PATH="$(abspath $(BIN)):$$PATH" mypy

format: $(VENV)/tests  ## put everything into the project's format
	PATH="$(abspath $(BIN)):$$PATH" ruff format .
	PATH="$(abspath $(BIN)):$$PATH" ruff check --fix .
	PATH="$(abspath $(BIN)):$$PATH" snakefmt Snakefile workflow

clean:  ## remove everything that the graph made; DVC's cache keeps what it has seen
	rm -rf data checkpoints results reports logs timings scratch .snakemake

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "deconfound needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp per set of packages, so that a second call installs nothing.
$(VENV)/workflow: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing the pinned packages into $(VENV) (minutes, once)"
	$(PIP) install --constraint constraints.txt --editable '.[workflow]'
	@touch $@

$(VENV)/tests: $(VENV)/workflow
	$(PIP) install --constraint constraints.txt --editable '.[workflow,test]'
	@touch $@

# Other people's attack libraries, for the tests' oracles: an environment of its own in front of ours, so that torch is not
# installed twice and their pins stay out of $(VENV).
$(PEERS)/ready: tests/peers/requirements.txt | $(VENV)/workflow
	$(BIN)/python -m venv --clear --without-pip $(PEERS)
	$(PIP) --python $(PEERS)/bin/python install --no-deps --requirement tests/peers/requirements.txt
	@ours=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	  && theirs=$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	  && echo "$$ours" > "$$theirs/behind.pth"
	@touch $@
