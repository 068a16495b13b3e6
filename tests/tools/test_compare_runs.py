import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tools" / "compare_runs.py"


def write(folder, *losses):
    folder.mkdir()
    speed = len(folder.name)  # differs between the runs, as the clock does
    clock = {"samples_per_s": speed, "speed": {"step_ms": speed}}
    records = [{"type": "step", "step": step, "loss": loss, **clock} for step, loss in enumerate(losses)]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def compare(*folders):
    result = subprocess.run([sys.executable, SCRIPT, *folders], capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def test_only_the_clock_may_differ(tmp_path):
    one, same = write(tmp_path / "one", 0.1, 0.2), write(tmp_path / "the_same", 0.1, 0.2)
    assert compare(one, same) == (0, "2 records are the same to the last digit\n")


def test_a_digit_and_a_missing_record_are_found(tmp_path):
    one = write(tmp_path / "one", 0.1, 0.2)
    status, output = compare(one, write(tmp_path / "digit", 0.1, 0.2 + 1e-16 * 2))
    assert (status, "0.2" in output) == (1, True)
    assert compare(one, write(tmp_path / "short", 0.1))[0] == 1


def test_what_proves_nothing_fails(tmp_path):
    empty = write(tmp_path / "empty")
    assert compare(empty, empty)[0] == 1
    assert "no such file" in compare(empty, tmp_path / "absent")[1]
    assert "tools/compare_runs.py exp/before exp/after" in compare(empty)[1]
