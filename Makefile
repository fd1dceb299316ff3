# make demo [ROWS=n]   the whole app on local stand-ins, from a blob to a list (ARGS=--stay keeps it running)
# make test            everything, Azurite included       make check   format, lint, types
# make bench           measurements as JSON lines          make chaos   kills the host a hundred times
# make fuzz            damaged snapshots by the thousand
# make docs            write the code's tables into docs   make lock    pin what a full installation needs
# make laptop          what the command line and the stand-in Klaviyo need: no Node
# make supply          wheels for the platform, known holes, secrets in the tree: needs the package index

PY = $(or $(VENV),.venv)/bin/python
ROWS ?= 5000
WORKERS ?= 4
export VENV PYTHON

.PHONY: setup laptop demo test check docs bench chaos fuzz supply lock clean

setup:
	@scripts/setup

laptop:
	@scripts/setup laptop

demo: setup
	@$(PY) -m sandbox demo --rows $(ROWS) $(ARGS)

check: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(dir $(PY))lint-imports --no-logo --no-cache
	$(PY) scripts/docs.py --check

# Bytecode is written whatever the shell says: hundreds of processes would compile all anew, half of what they take.
test: check
	PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

bench: setup
	@$(PY) scripts/bench.py $(ARGS)

docs: setup
	@$(PY) scripts/docs.py

chaos: setup
	@$(PY) scripts/chaos.py $(ARGS)

fuzz: setup
	@$(PY) scripts/fuzz.py $(ARGS)

supply: setup
	@$(PY) scripts/supply.py $(ARGS)

lock:
	@scripts/lock

clean:
	rm -rf $(or $(VENV),.venv) node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
