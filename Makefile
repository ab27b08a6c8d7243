# make demo   the whole pipeline on handwritten digits: installs into .venv, then seven stages and a report
# make test   the fast tests: TensorFlow in .venv, JAX without TensorFlow in .venv-jax
# make test-pythons   the fast tests on each of PYTHONS that is here, with the newest packages in the ranges
# make bench   the speeds that have a goal, in one table, 20 minutes; PyTorch's too where .venv has it
# make lock   requirements-lock.txt anew: the versions that `make demo` and `make test` install
# make docs   the documentation as a site in site/, from an environment of its own, .venv-docs
# make test-browser   the report and TensorBoard in headless Chromium; needs Debian's chromium and chromium-driver

PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
MODEL_DIR ?= runs/demo
TF := .venv/bin/python
JAX := .venv-jax/bin/python

.PHONY: demo bench test test-slow test-pythons test-browser lint docs install lock clean

demo: .venv/.installed
	$(TF) pipeline.py --preset=demo --model_dir=$(MODEL_DIR)
	@echo "Read $(MODEL_DIR)/report/report.html or report.md; look inside: .venv/bin/tensorboard --logdir=$(MODEL_DIR)"

bench: .venv/.installed
	$(TF) benchmarks/bench.py

test: lint .venv-jax/.installed
	$(TF) -m pytest -n 2 --dist worksteal -m "not slow and not browser"
	KERAS_BACKEND=jax $(JAX) -m pytest -n 2 --dist worksteal -m "jax and not slow"

test-slow: .venv/.installed .venv-jax/.installed .venv-docs/.installed
	$(TF) -m pytest -m slow
	KERAS_BACKEND=jax $(JAX) -m pytest -m "(jax and slow) or jax_slow"

test-pythons:
	@for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
	    || { echo "$$python is not here: skipped"; continue; }; \
	  echo "Python $$version"; \
	  $$python -m venv .venv-$$version \
	    && .venv-$$version/bin/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt \
	    && .venv-$$version/bin/python -m pytest -n 2 -m "not slow and not browser" || exit 1; \
	done

test-browser: .venv/.installed
	$(TF) -m pytest -m browser

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv-docs/.installed
	.venv-docs/bin/mkdocs build

install: .venv/.installed

lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet -r requirements.txt
	head -1 requirements-lock.txt > build/lock/requirements.txt
	build/lock/bin/python -m pip freeze >> build/lock/requirements.txt
	mv build/lock/requirements.txt requirements-lock.txt

.venv/.installed: requirements.txt requirements-dev.txt requirements-lock.txt
	$(PYTHON) -m venv .venv
	$(TF) -m pip install --quiet -r requirements.txt -r requirements-dev.txt -c requirements-lock.txt
	touch $@

.venv-jax/.installed: pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv .venv-jax
	$(JAX) -m pip install --quiet ".[jax]" -r requirements-dev.txt
	$(JAX) -m pip uninstall --quiet --yes nhn-tf
	touch $@

.venv-docs/.installed: docs/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet -r docs/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-jax .venv-docs .venv-3.* site build *.egg-info
