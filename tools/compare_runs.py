#!/usr/bin/env python3
"""Compare the training logs of two runs to the last digit: what a refactor has to prove (CONTRIBUTING.md).

    tools/compare_runs.py exp/before exp/after

Exits with 0 if every record is the same but for times and speeds, and with 1 at the first that differs.
"""

import json
import sys
from itertools import zip_longest
from pathlib import Path

CLOCK = ("samples_per_s", "wait_s", "minutes", "speed")
"""Fields that measure the machine."""


def records(exp_dir: str) -> list[dict[str, object]]:
    """The records of ``exp_dir/train_log.jsonl`` without what the clock says."""
    path = Path(exp_dir) / "train_log.jsonl"
    if not path.is_file():
        sys.exit(f"{path}: no such file; expected the folder of a trained run")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


def main(arguments: list[str]) -> int:
    """Compare two runs."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 1
    before, after = (records(exp_dir) for exp_dir in arguments)
    for one, other in zip_longest(before, after):
        if one != other:
            print(f"the runs differ:\n  {arguments[0]}: {one}\n  {arguments[1]}: {other}")
            return 1
    print(f"{len(before)} records are the same to the last digit")
    return 0 if before else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
