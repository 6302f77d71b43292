# Everything runs in .venv, which `setup` makes: nothing else need be installed but Python 3.10 to 3.13.
BIN := .venv/bin
PORT ?= 8000
NB ?=

# TensorFlow and Jupyter say less, and the tests' two processes do not fight for the cores.
export TF_CPP_MIN_LOG_LEVEL ?= 2
export PYDEVD_DISABLE_FILE_VALIDATION := 1
QUIET_THREADS := TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup book test serve refresh lint repository lock clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1|/' | awk -F'|' '{printf "  %-16s %s\n", $$1, $$2}'

setup: .venv/.installed ## make .venv and install requirements.lock (done by itself when needed)

.venv/.installed: requirements.lock tools/setup.sh
	@tools/setup.sh

# --all: an incremental build can pass over an error of the build before. -W: a warning is an error.
book: setup ## build the pages into _build/html
	@$(BIN)/jupyter-book build . --all -q -W -n --keep-going
	@echo "The book is at _build/html/index.html"

test: book ## run all tests: the library, the notebooks, the pages in a browser
	@$(QUIET_THREADS) $(BIN)/pytest tests book --nbval --nbval-current-env --nbval-cell-timeout=600 -n 2 --dist loadfile

serve: book ## build the pages and serve them on http://localhost:8000 (PORT=... for another)
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

refresh: setup ## run the notebooks again and store their outputs (NB="1 3" for some)
	@$(BIN)/python tools/refresh.py $(NB)

lint: setup ## check the style and the types of the code, and the form of the workflows
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format --default-filetype yaml CITATION.cff

repository: setup ## write the repository's address everywhere (URL=https://github.com/...)
	@$(BIN)/python tools/repository.py $(URL)

lock: ## compile requirements.lock again from requirements.txt (needs uv)
	uv pip compile --quiet --universal --python-version 3.10 --no-emit-index-url --upgrade \
		--custom-compile-command "make lock" --output-file requirements.lock requirements.txt

clean: ## remove what was built (not .venv)
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache
