# Two commands on a fresh machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo

# Two processes, a file to each in turn.
TESTS  := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all check format bench clean

demo: $(VENV)/.samples
	$(BIN)/medray demo --out $(DEMO)

test: $(VENV)/.dev
	$(TESTS) -m "not cluster and not slow"

test-all: $(VENV)/.dev
	$(TESTS) --durations 15

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/time_to_dice.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/tasks.py
	$(BIN)/python benchmarks/synthesis.py
	$(BIN)/python benchmarks/brain_mask.py $(HEADS)
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/serve_latency.py
	$(BIN)/python benchmarks/serve_throughput.py
	$(BIN)/python benchmarks/serve_fire.py
	$(BIN)/python benchmarks/annotate.py
	$(BIN)/python benchmarks/consensus.py
	$(BIN)/python benchmarks/active_learning.py
	$(BIN)/python benchmarks/track.py
	$(BIN)/python benchmarks/progression.py
	$(BIN)/python benchmarks/drift.py
	$(BIN)/python benchmarks/record_overhead.py
	$(BIN)/python benchmarks/canary.py
	$(BIN)/python benchmarks/renewal.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than what the environment was made from; dev includes samples.
$(VENV)/.samples: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[samples]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[samples,faces,ocr,postgres,openvino,dev]"
	touch $@ $(VENV)/.samples

# MLflow's server, of the client's version, for tests.
$(VENV)/mlflow: constraints.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet "$$(sed -n 's/^mlflow-skinny==/mlflow==/p' constraints.txt)" psycopg2-binary boto3

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
