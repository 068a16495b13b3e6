#!/usr/bin/env bash
# Every check of the project: lint, format, types, unit and consistency tests, and the recipe itself on real voices.
# tools/test.sh quick leaves the recipe out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "$*" in
"") selection=() ;;
quick) selection=(-m "not recipe") ;;
*)
  echo "$0: found '$*', expected nothing or quick" >&2
  exit 1
  ;;
esac

path_extra=test
. ./path.sh
# The recipe under test uses this environment, whatever is active outside.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

step() {
  echo "test.sh: $*"
  "$@"
}

step "${PYTHON}" -m ruff check .
step "${PYTHON}" -m ruff format --check .
step "${PYTHON}" -m mypy
step "${PYTHON}" -m pytest --durations 10 ${selection[@]+"${selection[@]}"}
echo "test.sh: all checks passed"
