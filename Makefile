# Everything runs in .venv, which is made on first use: by uv where it is installed, else by venv and pip.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: quickstart test test-slow lint docs dist lock clean

quickstart: $(READY)
	$(BIN)/crossdistill quickstart

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks recipes examples docs
	$(BIN)/ruff format --check src tests benchmarks recipes examples docs
	$(BIN)/mypy

# The pages of docs/ with the reference made of the docstrings, as a site in build/site; a broken link is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# A wheel in dist/, tried from an environment of its own outside the repository: the quickstart's first minute.
dist:
	rm -rf dist build/trial && mkdir -p build/trial
	@if command -v uv >/dev/null 2>&1; then \
		uv build --quiet --wheel --out-dir dist && uv venv --quiet --python $(PYTHON) build/trial/env && \
		uv pip install --quiet --python build/trial/env/bin/python -c requirements.lock dist/*.whl; \
	else \
		$(PYTHON) -m venv build/trial/env && \
		build/trial/env/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist . && \
		build/trial/env/bin/python -m pip install --quiet -c requirements.lock dist/*.whl; \
	fi
	cd build/trial && env/bin/crossdistill --version && env/bin/crossdistill studies && \
		env/bin/crossdistill quickstart --methods scratch --output run

$(READY): pyproject.toml requirements.lock
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --python $(BIN)/python -r requirements.lock && \
		uv pip install --python $(BIN)/python --no-deps -e .; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --no-deps -e .; \
	fi
	@touch $(READY)

# What torch pulls in for itself (CUDA libraries, Triton) is pinned by torch and differs between platforms.
lock: $(READY)
	$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(nvidia-|cuda-|triton|pip|setuptools|wheel)' > requirements.lock

clean:
	rm -rf $(VENV) build dist
