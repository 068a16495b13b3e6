#!/usr/bin/env bash
# Kill the recipe again and again, at random moments, and compare all that it leaves with what it makes undisturbed:
#   tools/soak.sh [kills, 200] [--work soak] [--seed 0] [--downloads downloads/mini]
# The same command goes on where it stopped. tools/soak.py says what is done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./path.sh
exec "${PYTHON}" tools/soak.py "$@"
