# Everything runs in .venv, which holds exactly the versions of requirements.lock.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup demo test check catalogue reference benchmark lock

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $$(grep '^uv==' requirements.lock)
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/kineray demo

test: setup
	$(BIN)/pytest -m "not slow" -n auto --dist worksteal

# What CI also runs: style, types, the layers.
check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Count the published models anew, for what `kineray models` lists.
catalogue: setup
	$(BIN)/python -m kineray.models.catalogue

# Write docs/reference.md anew, from what the code declares.
reference: setup
	$(BIN)/python docs/generate.py

# Ratios against other readers and networks, measured here. They are installed for this; torchcodec needs
# FFmpeg's libraries.
benchmark: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/features.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/training.py

# Choose current versions anew.
lock:
	$(BIN)/uv pip compile --quiet --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--python-version 3.11 --all-extras --upgrade pyproject.toml --output-file requirements.lock
