import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tools" / "kill_enrolment.py"


def run(*arguments, break_it=""):
    argv = [str(SCRIPT), *arguments]
    code = f"import runpy, sys\n{break_it}\nsys.argv = {argv}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_no_kill_leaves_half_a_speaker():
    """30 here; without an option the program kills a thousand times."""
    result = run("--kills", "30")
    assert result.returncode == 0, result.stderr
    assert "30 kills: " in result.stdout
    assert "no half speaker" in result.stdout


def test_it_would_notice():
    """With each statement a transaction of its own, halves are found soon."""
    break_it = (
        "from wespeaker_qm.enrolment import database\n"
        "connect = database.sqlite3.connect\n"
        "class Loose(database.sqlite3.Connection):\n"
        "    def execute(self, statement, *arguments):\n"
        "        is_mark = statement.startswith(('BEGIN', 'COMMIT', 'ROLLBACK'))\n"
        "        return super().execute('SELECT 1' if is_mark else statement, *arguments)\n"
        "database.sqlite3.connect = lambda *args, **options: connect(*args, factory=Loose, **options)"
    )
    result = run("--kills", "100", break_it=break_it)
    assert result.returncode == 1
    assert any(text in result.stderr for text in ("half a speaker", "expected", "by itself"))
