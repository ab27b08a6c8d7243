# make demo   the whole pipeline on handwritten digits: installs into .venv, then seven stages and a report
# make test   the fast tests: TensorFlow in .venv, JAX without TensorFlow in .venv-jax
# make docs   the documentation as a site in site/, from an environment of its own, .venv-docs
# make test-browser   the report and TensorBoard in headless Chromium; needs Debian's chromium and chromium-driver

PYTHON ?= python3
MODEL_DIR ?= runs/demo
TF := .venv/bin/python
JAX := .venv-jax/bin/python

.PHONY: demo test test-slow test-browser lint docs install clean

demo: .venv/.installed
	$(TF) pipeline.py --preset=demo --model_dir=$(MODEL_DIR)
	@echo "Read $(MODEL_DIR)/report/report.html or report.md; look inside: .venv/bin/tensorboard --logdir=$(MODEL_DIR)"

test: lint .venv-jax/.installed
	$(TF) -m pytest -n 2 --dist worksteal -m "not slow and not browser"
	KERAS_BACKEND=jax $(JAX) -m pytest -n 2 --dist worksteal -m "jax and not slow"

test-slow: .venv/.installed .venv-jax/.installed .venv-docs/.installed
	$(TF) -m pytest -m slow
	KERAS_BACKEND=jax $(JAX) -m pytest -m "(jax and slow) or jax_slow"

test-browser: .venv/.installed
	$(TF) -m pytest -m browser

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv-docs/.installed
	.venv-docs/bin/mkdocs build

install: .venv/.installed

.venv/.installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(TF) -m pip install --quiet -r requirements.txt -r requirements-dev.txt
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
	rm -rf .venv .venv-jax .venv-docs site build *.egg-info
