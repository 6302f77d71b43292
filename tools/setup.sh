#!/usr/bin/env bash
# Makes .venv and installs exactly what requirements.lock names: with uv where there is one (seconds), else with pip.
set -euo pipefail
cd "$(dirname "$0")/.."

supported() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

uv=$(command -v uv || true)
if ! [ -x .venv/bin/python ] || ! supported .venv/bin/python; then
  rm -rf .venv
  python=
  for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
    if supported "$candidate"; then python=$(command -v "$candidate"); break; fi
  done
  if [ -n "$uv" ]; then
    uv venv --quiet --python "${python:-3.12}" .venv # without a Python here, uv fetches one
  elif [ -n "$python" ]; then
    "$python" -m venv .venv
  else
    echo "make setup: no Python 3.10 to 3.13 found (and no uv that could fetch one). Install one of them first." >&2
    exit 1
  fi
fi

echo "Installing requirements.lock into .venv"
if [ -n "$uv" ]; then
  uv pip install --quiet --python .venv/bin/python -r requirements.lock
else
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
fi
touch .venv/.installed
