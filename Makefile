# One command each, on a machine that has Python >= 3.11 and make.
#   make demo      installs into .venv and runs the main comparison
#   make test      installs into .venv and runs the tests
#   make test-new  the same tests under Python 3.12 or 3.13 with the newest jax and flax
PYTHON ?= python3
NEW_PYTHON ?= $(shell command -v python3.13 || command -v python3.12)
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
# without what it depends on: it asks for an orbax-checkpoint older than ours
JAX2ONNX := 'jax2onnx>=0.17'
PYTEST_ARGS ?= -n 2 --dist loadfile -m "not slow and not gpu"

.PHONY: demo test test-new test-slow lint wheel-check clean

$(VENV)/.demo: pyproject.toml
	@echo "== installing (first time only; reported apart from the run) =="
	@start=$$(date +%s); $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q -e . && \
	  echo "== installed in $$(( $$(date +%s) - start )) s =="
	@touch $@

$(VENV)/.dev: pyproject.toml
	@start=$$(date +%s); $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q -e ".[dev,onnx]" && \
	  $(BIN)/python -m pip install -q --no-deps $(JAX2ONNX) && \
	  echo "== installed in $$(( $$(date +%s) - start )) s =="
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/fusekit compare configs/examples/digits/concat.yaml \
	  --fusion early,bottleneck,low_rank_tensor,expert_gate,sequential \
	  --seeds 2 --rates 5e-3 --set train.epochs=20 --name demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(TESTS) $(PYTEST_ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(TESTS) -m slow

test-new:
	@test -n "$(NEW_PYTHON)" || { echo "no python3.12 or python3.13 here"; exit 1; }
	$(NEW_PYTHON) -m venv .venv-new
	.venv-new/bin/python -m pip install -q --upgrade -e ".[dev,onnx]"
	.venv-new/bin/python -m pip install -q --upgrade --no-deps $(JAX2ONNX)
	.venv-new/bin/python -m pip list 2>/dev/null | grep -iE "^(jax|jaxlib|flax) "
	.venv-new/bin/python -m pytest $(TESTS) $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

wheel-check: $(VENV)/.dev
	$(BIN)/python tools/check_wheel.py

clean:
	rm -rf $(VENV) .venv-new build dist runs
