# Everything happens in .venv in this folder; Python 3.11 or newer and make are all that is needed.
PYTHON ?= python3
BIN := .venv/bin
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
endif

# Benchmarks that need no data; the others take a file or folder, see benchmarks/README.md.
BENCHMARKS := calibration_efficiency prnu wrong_frames closed_loop synthesis_speed ljpeg_speed batch_speed fuzz

.PHONY: setup demo test lint bench docs clean

setup: .venv/.base

.venv/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.base
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,torch,hdf5,cluster,view]"
	@touch $@

.venv/.docs: .venv/.base
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

demo: .venv/.base
	$(BIN)/rawkit demo -o demo-output

test: .venv/.dev
	$(BIN)/python -m pytest -n 2

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: .venv/.dev
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html; its search needs: $(BIN)/python -m http.server -d site"

clean:
	rm -rf .venv demo-output build dist site
