# Every target creates .venv when it is missing and installs the pinned set when it has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
PYLATE := .venv-pylate
SIDE_BY_SIDE = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-long lint types ci docs recipes bench-demo bench-index bench-indexing bench-pylate bench-scaling bench-search bench-serving bench-tests bench-training clean help

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

demo: $(VENV)/.demo   ## train, index, serve and search the docstrings on this machine
	$(BIN)/raycol demo $(ARGS)

test-fast: $(VENV)/.dev  ## run the tests that need no Ray, no socket and no training: a minute, for every commit
	$(SIDE_BY_SIDE) -m 'not slow and not sockets and not long' $(ARGS)

test: $(VENV)/.dev    ## run the tests
	$(SIDE_BY_SIDE) -m 'not long' $(ARGS)

test-long: $(VENV)/.dev  ## run what make test leaves out (losing nodes and drivers, memory, the demo), and more examples
	$(BIN)/python -m pytest -m 'long or sampled' --hypothesis-profile long $(ARGS)

lint: $(VENV)/.dev    ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

recipes: $(VENV)/.dev  ## train every recipe of jobs/configs for two steps, with a tiny model and tiny data
	$(BIN)/python -m pytest tests/training/test_recipes.py $(ARGS)

types: $(VENV)/.dev   ## static types
	$(BIN)/mypy

ci: lint types test   ## what .ci/run runs

docs: $(VENV)/.docs   ## build the documentation site in site/
	$(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

bench-demo: $(VENV)/.dev  ## wall time and peak memory of the demo, all processes together
	$(BIN)/python benchmarks/demo.py

bench-index: $(VENV)/.dev $(PEERS)/.made  ## build cost, size and recall of an index, beside fast-plaid's
	$(BIN)/python benchmarks/index.py synthetic --peer $(PEERS)/bin/python $(ARGS)

bench-search: $(VENV)/.dev $(PEERS)/.made  ## CPU time and recall of searches, beside other engines'
	$(BIN)/python benchmarks/search.py --keep benchmarks/kept --peers $(PEERS)/bin/python --pictures $(ARGS)

bench-indexing: $(VENV)/.dev  ## what encoding and quantising cost a worker, and two workers beside one
	$(BIN)/python benchmarks/indexing.py $(ARGS)

bench-pylate: $(VENV)/.dev $(PYLATE)/.made  ## saved models opened by PyLate: the largest difference of embeddings
	$(BIN)/python benchmarks/pylate.py --python $(PYLATE)/bin/python $(ARGS)

bench-scaling: $(VENV)/.dev  ## an index as it grows to 100 M tokens, and what larger ones take (an hour, 12 GB)
	$(BIN)/python benchmarks/scaling.py measure --keep benchmarks/kept/scaling
	$(BIN)/python benchmarks/scaling.py report --keep benchmarks/kept/scaling $(ARGS)

bench-tests: $(VENV)/.dev  ## wall time and CPU seconds of make test, all processes together
	$(BIN)/python benchmarks/suite.py $(ARGS)

bench-training: $(VENV)/.dev  ## what a training step costs, beside sentence-transformers', and two workers beside one
	$(BIN)/python benchmarks/training.py $(ARGS)

bench-serving: $(VENV)/.dev $(PYLATE)/.made  ## latency and throughput of an endpoint, beside searching in process
	$(BIN)/python benchmarks/serving.py --keep benchmarks/kept --pylate $(PYLATE)/bin/python $(ARGS)

clean:           ## remove the virtual environments, the demo's output and the site
	rm -rf $(VENV) $(PEERS) $(PYLATE) raycol-demo benchmarks/kept site

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "raycol needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 2; }
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

$(PEERS)/.made: benchmarks/peers/requirements.txt
	@[ -x $(PEERS)/bin/pip ] || $(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	@touch $@

$(PYLATE)/.made: benchmarks/peers/pylate.txt
	@[ -x $(PYLATE)/bin/pip ] || $(PYTHON) -m venv --clear $(PYLATE)
	$(PYLATE)/bin/python -m pip install --quiet --requirement $<
	@touch $@
