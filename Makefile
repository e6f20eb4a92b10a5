# `make demo` is the first thing to run. Everything lives in .venv/; nothing needs root.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first interpreter from 3.11 up that can make a virtual environment; PYTHON=... overrides it.
FIND_PYTHON = for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done
PYTHON ?= $(shell $(FIND_PYTHON))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
TESTS ?= tests
WORKERS ?= 3
# A file's tests stay on one worker (they share a swarm), and files go in their order: the long ones come first.
# Without the second, every run would rewrite and compile all tests anew, in every worker.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-stores test-chaos test-growth soak-growth test-superlink check format proto bench-demo bench-skew bench-domains bench-updates bench-absent bench-unbalanced bench-root-day bench-child-start bench-answers bench-serving bench-alma bench-hard-moe clean test-compose chaos-heads fuzz chaos-registry bench-registry bench-deltas

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv and install what the project needs (nothing to do when it is current)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python: found none from 3.11 up with venv; try: make PYTHON=/path/to/python3.11 setup" >&2; exit 3; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## a whole swarm on this machine, from data to a report (ARGS="--keep", "--json", "--seed 1", ...)
	@$(BIN)/swarm up $(ARGS)

test: $(STAMP) ## run the tests (TESTS=tests/unit to choose, ARGS="-k name" for pytest's own)
	$(PYTEST) $(TESTS) $(ARGS)

test-chaos: $(STAMP) ## what is killed, full, cut off or large, at length
	$(PYTEST) -m chaos tests $(ARGS)

test-growth: $(STAMP) ## growth at length: real nodes that split, merge, remove and learn mega-batches as they arrive
	$(PYTEST) -m growth tests $(ARGS)

soak-growth: $(STAMP) ## a never-ending day: 200 mega-batches, five nodes that come and go (ARGS="--data-dir DIR")
	$(BIN)/python -m benchmarks.soak_growth $(ARGS)

test-stores: $(STAMP) ## the stores' contracts over every server there is (REDIS_SERVER, VALKEY_SERVER: paths of others)
	$(BIN)/python -m pytest -n 0 -rsP --no-header tests/contract tests/integration/test_s3_blobs.py $(ARGS)

test-superlink: $(STAMP) ## the sums app on a stock Flower SuperLink with three SuperNodes: the same weights
	$(BIN)/python -m pytest -n 0 -rs -m superlink tests/superlink $(ARGS)

check: $(STAMP) ## formatting, lint, types, import contracts, generated code: what CI runs before the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m swarm.rpc.generate --check

format: $(STAMP) ## format and fix what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(STAMP) ## regenerate swarm/rpc/pb from protos/
	$(BIN)/python -m swarm.rpc.generate

bench-demo: $(STAMP) ## three seeds of `swarm up`, into benchmarks/results/demo.json and README.md
	$(BIN)/python -m benchmarks.demo $(ARGS)

bench-skew: $(STAMP) ## ten nodes with skewed labels, into benchmarks/results and docs/benchmarks.md (ARGS="--data-dir DIR")
	$(BIN)/swarm bench skew $(ARGS)

bench-domains: $(STAMP) ## harder and mixed data, likewise (ARGS="--data-dir DIR --seeds 0,1,2 --only CASE")
	$(BIN)/swarm bench domains $(ARGS)

bench-updates: $(STAMP) ## one expert whose shard drifts, into benchmarks/results and docs/updates.md (ARGS="--data-dir DIR")
	$(BIN)/python -m benchmarks.updates $(ARGS)

bench-absent: $(STAMP) ## who should answer for an absent owner, into benchmarks/results (ARGS="--data-dir DIR")
	$(BIN)/python -m benchmarks.absent_owners $(ARGS)

bench-unbalanced: $(STAMP) ## which root where classes differ much in their samples, into benchmarks/results (ARGS="--data-dir DIR")
	$(BIN)/python -m benchmarks.unbalanced_classes $(ARGS)
	$(BIN)/python -m benchmarks.unbalanced_classes.one_domain $(ARGS)

bench-root-day: $(STAMP) ## the root of a never-ending day from its sums alone, into benchmarks/results (ARGS="--data-dir DIR")
	$(BIN)/python -m benchmarks.unbalanced_classes.over_a_day $(ARGS)

bench-answers: $(STAMP) ## calibration and out-of-distribution score on real data, into benchmarks/results (ARGS="--data-dir DIR")
	$(BIN)/python -m benchmarks.answers $(ARGS)

bench-serving: $(STAMP) ## routed inference: hops, batching, overload, failures, lookup, beside hivemind (ARGS="--only load")
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-child-start: $(STAMP) ## what it takes to start a child of a node's agent, into benchmarks/results
	$(BIN)/python -m benchmarks.child_start $(ARGS)

bench-alma: $(STAMP) ## waiting, replay and growth over a stream, into benchmarks/results and docs/growth.md (ARGS="--data-dir DIR")
	$(BIN)/swarm bench alma $(ARGS)

bench-hard-moe: $(STAMP) ## hard mixtures beside one net, many and a wide one, likewise (ARGS="--data-dir DIR")
	$(BIN)/swarm bench hard-moe $(ARGS)

bench-registry: $(STAMP) ## publish and fetch beside a TLS socket, torchft and NVFlare, into benchmarks/results/registry.json (ARGS="--full")
	$(BIN)/python -m benchmarks.registry $(ARGS)

bench-deltas: $(STAMP) ## what deltas save and cost for fine-tuned nets, into benchmarks/results/deltas.json (ARGS="--data-dir DIR")
	$(BIN)/python -m benchmarks.deltas $(ARGS)

chaos-heads: $(STAMP) ## are heads linearizable under faults? 500 histories and ten planted bugs, into benchmarks/results/heads.json
	$(BIN)/python -m benchmarks.heads $(ARGS)

fuzz: $(STAMP) ## 1,000,000 mutated messages and 100,000 mutated tensor headers, into benchmarks/results/fuzz.json
	$(BIN)/python -m benchmarks.fuzz $(ARGS)

chaos-registry: $(STAMP) ## the registry killed at every step, its Redis cut, its disk full, into benchmarks/results (ARGS="--quick 2")
	$(BIN)/python -m benchmarks.chaos_registry $(ARGS)

clean: ## remove .venv and every cache
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

test-compose: $(STAMP) ## the containers, really run (needs Docker with Compose 1.29 or newer; skipped without)
	$(BIN)/python -m pytest tests/compose -rs $(ARGS)
