#!/usr/bin/env bash
# Every check of the project: lint, format, types, unit and consistency tests, the installed package, and the recipe itself
# on real voices. Options: tools/test.sh [quick] [pytest's options and files], e.g.
#   tools/test.sh quick                     without the recipe and the installed package
#   tools/test.sh -k head tests/losses      some tests
#   tools/test.sh -n 1                      one test at a time; by default as many as there are cores
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
selection=()
if [ "${1:-}" = quick ]; then
  selection=(-m "not recipe and not installed")
  shift
fi

path_extra=test
. ./path.sh
# The recipe under test uses this environment, whatever is active outside.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# The report is tested in a browser. Where there is none and packages can be installed, it comes from Debian.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "test.sh: installing chromium, for the tests of report.html"
  if ! { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y chromium; } >/dev/null; then
    echo "test.sh: chromium could not be installed: the tests in a browser will be skipped" >&2
  fi
fi

step() {
  echo "test.sh: $*"
  "$@"
}

step "${PYTHON}" -m ruff check .
step "${PYTHON}" -m ruff format --check .
step "${PYTHON}" -m mypy
# In the order of tests/conftest.py: the files that take longest first.
step "${PYTHON}" -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 10 ${selection[@]+"${selection[@]}"} "$@"
echo "test.sh: all checks passed"
