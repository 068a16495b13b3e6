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
step "${PYTHON}" -m pytest --durations 10 ${selection[@]+"${selection[@]}"}
echo "test.sh: all checks passed"
