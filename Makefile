VENV := .venv
BIN := $(VENV)/bin

LOCKS := deployments/locks
INSTALL := $(BIN)/python $(LOCKS)/install.py

.PHONY: demo test test-cluster chaos fuzz check bench format lock licences sbom clean

# install.py writes it, here as on nodes (cluster.yaml): the digests of what was installed from.
$(VENV)/installed: pyproject.toml $(wildcard $(LOCKS)/*.lock)
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(INSTALL) dev

demo: $(VENV)/installed
	$(BIN)/headrace demo $(ARGS)

# Those that start Ray one after the other, since each takes the machine; then the others, side by side. Either may have
# none of what ARGS names (exit status 5).
test: $(VENV)/installed
	$(BIN)/python -m pytest -m "(cluster or chaos) and not (lab or storm)" $(ARGS) || test $$? -eq 5
	$(BIN)/python -m pytest -m "not (cluster or chaos or lab or storm)" -n auto --maxprocesses 8 $(ARGS) || test $$? -eq 5

test-cluster: $(VENV)/installed
	$(BIN)/python -m pytest -m lab -rs $(ARGS)

# The seed of the faults is printed; HEADRACE_CHAOS_SEED has the same again, HEADRACE_CHAOS_FAULTS says how many.
chaos: $(VENV)/installed
	$(BIN)/python -m pytest -m storm -rP $(ARGS)

# Requests, then inputs of decoders for HEADRACE_FUZZ_S seconds; `ARGS="--only routes"` has one of these. What covers new
# code is kept under build/fuzz and gone on from.
fuzz: $(VENV)/installed
	HEADRACE_FUZZ_S=$${HEADRACE_FUZZ_S:-600} $(BIN)/python -m pytest tests/fuzz/test_http.py -s
	$(BIN)/python -m tests.fuzz --bounds --seconds $${HEADRACE_FUZZ_S:-600} $(ARGS)

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deployments.locks.licences --check

$(VENV)/bench-installed: $(VENV)/installed
	$(INSTALL) dev bench
	touch $@

bench: $(VENV)/bench-installed
	$(BIN)/python -m benchmarks.bench_serving --plot build/serving.png --json build/serving.json
	$(BIN)/python -m benchmarks.bench_freshness

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# From pyproject.toml, before what it names is installed; ARGS=--upgrade takes what is new.
lock:
	test -x $(BIN)/uv || $(MAKE) $(VENV)/installed
	$(BIN)/python -m deployments.locks.resolve $(ARGS)

licences: $(VENV)/bench-installed
	$(BIN)/python -m deployments.locks.licences

sbom: $(VENV)/installed
	$(BIN)/python -m deployments.locks.sbom

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
