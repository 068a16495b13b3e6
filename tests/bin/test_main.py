import contextlib
import errno
import io
import logging
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from wespeaker_qm.bin import main as program
from wespeaker_qm.utils.done import DoneMarker
from wespeaker_qm.utils.errors import RecipeError
from wespeaker_qm.utils.layout import RunFolder
from wespeaker_qm.utils.stage import stage
from wespeaker_qm.utils.trouble import ProcessDiedError

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def fake_subcommand(monkeypatch, run):
    module = types.ModuleType("wespeaker_qm.bin.score")
    module.HELP = "a test's subcommand"
    module.add_arguments = lambda parser: parser.add_argument("--exp_dir")
    module.run = run
    monkeypatch.setitem(sys.modules, "wespeaker_qm.bin.score", module)


def say(args):
    logging.getLogger("wespeaker_qm.bin.score").info("scoring %s", args.exp_dir)


def fail(args):
    raise RecipeError(f"{args.exp_dir}: found nothing")


def crash(args):
    raise ValueError("a bug")


class FullDisk(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_lines_go_to_the_console_and_to_the_log(monkeypatch, tmp_path, capsys):
    fake_subcommand(monkeypatch, say)
    log = tmp_path / "log" / "score.log"
    assert program.main(["score", "--exp_dir", "exp/a b", "--log", str(log)]) == 0
    assert capsys.readouterr().out == "scoring exp/a b\n"
    first, second = log.read_text(encoding="utf-8").splitlines()
    assert first.endswith(f"INFO $ wespeaker-qm score --exp_dir 'exp/a b' --log {log}")
    assert second.endswith("INFO scoring exp/a b")


@pytest.mark.parametrize("name", ["日本", os.fsdecode(b"M\xfcller")])
def test_names_that_the_console_cannot_show_stop_nothing(monkeypatch, tmp_path, name):
    fake_subcommand(monkeypatch, say)
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    assert program.main(["score", "--exp_dir", name, "--log", str(tmp_path / "score.log")]) == 0
    console.flush()
    assert console.buffer.getvalue() == b"scoring " + name.encode("ascii", "backslashreplace") + b"\n"
    assert "INFO scoring " in (tmp_path / "score.log").read_text(encoding="utf-8").splitlines()[1]


def test_a_users_error_is_a_message_and_exit_1(monkeypatch, tmp_path, capsys):
    fake_subcommand(monkeypatch, fail)
    log = tmp_path / "score.log"
    assert program.main(["score", "--exp_dir", "exp", "--log", str(log)]) == 1
    assert capsys.readouterr().err == "error: exp: found nothing\n"
    assert "error: exp: found nothing" in log.read_text(encoding="utf-8")


def test_a_log_is_appended_to(monkeypatch, tmp_path):
    fake_subcommand(monkeypatch, say)
    log = tmp_path / "score.log"
    log.touch()
    for count in (2, 4):
        assert program.main(["score", "--log", str(log)]) == 0
        assert len(log.read_text(encoding="utf-8").splitlines()) == count
    of_a_program = "2025-01-31 12:00:00,123 __main__:0 INFO $ wespeaker-qm score\n"  # as run.sh calls it
    log.write_text(of_a_program, encoding="utf-8")
    assert program.main(["score", "--log", str(log)]) == 0
    assert log.read_text(encoding="utf-8").startswith(of_a_program)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04\x00\xff",
        b"a b 0.5 target\n",
        b"\n2025-01-31 12:00:00,123 __main__:0 INFO x\n",
        b"2025-01-31 my notes",
    ],
)
def test_no_other_file_is_taken_for_a_log(monkeypatch, tmp_path, capsys, content):
    """A checkpoint, a score file or notes, to which lines would be appended."""
    fake_subcommand(monkeypatch, crash)
    other = tmp_path / "avg_model.pt"
    other.write_bytes(content)
    assert program.main(["score", "--log", str(other)]) == 1
    assert other.read_bytes() == content
    message = capsys.readouterr().err
    assert f"error: --log {other}: begins with" in message
    assert "name another file" in message


@pytest.mark.parametrize("place", ["", "file/score.log"])
def test_a_log_that_cannot_be_written_is_a_users_error(monkeypatch, tmp_path, capsys, place):
    fake_subcommand(monkeypatch, crash)
    (tmp_path / "file").write_text("x")
    assert program.main(["score", "--log", str(tmp_path / place)]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path, capsys):
    fake_subcommand(monkeypatch, crash)
    log = tmp_path / "score.log"
    assert program.main(["score", "--log", str(log)]) == 2
    for text in (log.read_text(encoding="utf-8"), capsys.readouterr().err):
        assert text.count("Traceback") == 1
        assert "ValueError: a bug" in text


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "exp/a.pt"),
        MemoryError("of 9 GiB"),
        ProcessDiedError(-signal.SIGKILL),
    ],
)
def test_trouble_with_the_machine_is_one_line_and_exit_1(monkeypatch, capsys, error):
    def run(args):
        raise error

    fake_subcommand(monkeypatch, run)
    assert program.main(["score"]) == 1
    assert re.fullmatch(r"error: [^\n]+; [^\n]+\n", capsys.readouterr().err)


def test_a_corpus_folder_in_a_circle_of_links_is_no_bug(monkeypatch, tmp_path, capsys):
    """Already when the command line is read, and where a path is resolved."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.chdir(tmp_path)

    def run(args):
        (tmp_path / "loop").resolve()

    fake_subcommand(monkeypatch, run)
    assert program.main(["score"]) == 1
    assert "links lead in a circle" in capsys.readouterr().err


def test_a_log_on_a_full_disk_is_told_once_and_the_work_goes_on(monkeypatch, tmp_path, capsys):
    def run(args):
        (handler,) = (each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler))
        handler.stream.close()
        handler.stream = FullDisk()
        for number in range(3):
            logging.getLogger("wespeaker_qm").info("line %d", number)

    fake_subcommand(monkeypatch, run)
    log = tmp_path / "score.log"
    assert program.main(["score", "--log", str(log)]) == 0
    found = capsys.readouterr()
    assert found.out == "line 0\nline 1\nline 2\n"
    assert found.err.count("cannot be written any more") == 1
    assert str(log) in found.err
    assert "Traceback" not in found.err


def test_a_console_that_takes_nothing_is_no_bug(monkeypatch, capsys):
    fake_subcommand(monkeypatch, say)
    monkeypatch.setattr(sys, "stdout", FullDisk())
    assert program.main(["score", "--exp_dir", "x"]) == 1
    assert capsys.readouterr().err.startswith("error: No space left on device; ")


def test_only_the_first_process_speaks(monkeypatch, tmp_path, capsys):
    fake_subcommand(monkeypatch, say)
    monkeypatch.setenv("RANK", "1")
    assert program.main(["score", "--log", str(tmp_path / "score.log")]) == 0
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "score.log").exists()


@pytest.mark.parametrize("arguments", [[], ["scor"], ["score", "--exp", "x"], ["score", "--exp_dir"]])
def test_a_wrong_command_line_exits_with_1(monkeypatch, capsys, arguments):
    fake_subcommand(monkeypatch, say)
    with pytest.raises(SystemExit) as caught:
        program.main(arguments)
    assert caught.value.code == 1
    assert "usage: wespeaker-qm" in capsys.readouterr().err


def test_only_the_chosen_subcommand_is_imported(monkeypatch, capsys):
    fake_subcommand(monkeypatch, say)
    monkeypatch.delitem(sys.modules, "wespeaker_qm.bin.train", raising=False)
    program.main(["score"])
    capsys.readouterr()
    assert "wespeaker_qm.bin.train" not in sys.modules


@pytest.mark.parametrize("said", [False, True])
def test_a_command_that_is_refused_at_once_leaves_no_folder_behind(monkeypatch, tmp_path, capsys, said):
    """Where it had begun to speak it may have worked for hours, and the log is kept."""

    def run(args):
        if said:
            say(args)
        fail(args)

    fake_subcommand(monkeypatch, run)
    log = tmp_path / "exp" / "typo" / "log" / "score.log"
    assert program.main(["score", "--exp_dir", "exp/typo", "--log", str(log)]) == 1
    assert "error: exp/typo: found nothing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == ([tmp_path / "exp"] if said else [])
    assert log.is_file() == said


def test_folders_and_files_of_others_stay_when_a_command_is_refused(monkeypatch, tmp_path):
    fake_subcommand(monkeypatch, fail)
    log = tmp_path / "exp" / "log" / "score.log"
    (tmp_path / "exp").mkdir()
    assert program.main(["score", "--log", str(log)]) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["exp"]

    def leave_something(args):
        (tmp_path / "exp" / "log" / "begun").touch()
        fail(args)

    fake_subcommand(monkeypatch, leave_something)
    assert program.main(["score", "--log", str(log)]) == 1
    assert sorted(path.name for path in log.parent.iterdir()) == ["begun", "score.log"]
    fake_subcommand(monkeypatch, fail)
    assert program.main(["score", "--log", str(log)]) == 1
    assert log.read_text().count("found nothing") == 2


def toy_stage(*, run, text):
    """A stage as a contributor writes it: a function of keywords, with a marker."""
    output = run.path / "toy.txt"
    marker = DoneMarker(run.marker("toy"), {"text": text}, [output], version=1)
    with stage("toy", marker) as is_due:
        if is_due:
            output.write_text(text)


@pytest.fixture
def toy(monkeypatch):
    """The stage as a subcommand: its options, and a row of the table."""
    module = types.ModuleType("toy_program")
    module.HELP = "write a text"

    def add_arguments(parser):
        parser.add_argument("--exp_dir", type=RunFolder, required=True)
        parser.add_argument("--text", required=True)

    module.add_arguments = add_arguments
    module.run = lambda args: toy_stage(run=args.exp_dir, text=args.text)
    monkeypatch.setitem(sys.modules, "toy_program", module)
    monkeypatch.setitem(program.SUBCOMMANDS, "toy", program.Subcommand("toy_program", stages=(8,)))


@pytest.mark.usefixtures("toy")
def test_a_stage_is_a_function_and_a_row(tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    command = ["toy", "--exp_dir", str(run), "--log", str(run.log("toy")), "--text"]
    assert program.main([*command, "one"]) == 0
    assert (run.path / "toy.txt").read_text() == "one"
    assert run.marker("toy").is_file()
    capsys.readouterr()
    assert program.main([*command, "one"]) == 0
    assert "stage toy: nothing changed since the last run, skipped" in capsys.readouterr().out
    assert program.main([*command, "two"]) == 0
    assert (run.path / "toy.txt").read_text() == "two"
    assert run.log("toy").read_text().count("$ wespeaker-qm toy") == 3
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert re.search(r"toy +write a text \(stage 8\)", capsys.readouterr().out)


LEAVES = [(name,) for name in program.SUBCOMMANDS if name != "bench"] + [
    ("bench", "head"),
    ("bench", "loader"),
    ("bench", "train"),
]


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_an_unknown_option_is_told_by_its_own_subcommand_with_the_nearest_names(command, capsys):
    """Also where arguments are missing, which argparse would tell first."""
    with pytest.raises(SystemExit) as caught:
        program.main([*command, "--hlep"])
    assert caught.value.code == program.SUBCOMMANDS[command[0]].failure
    message, name = capsys.readouterr().err, f"wespeaker-qm {' '.join(command)}"
    assert message.startswith(f"usage: {name} ")
    assert f"{name}: error: unknown option '--hlep'; the nearest are --help" in message
    assert message.endswith(f"(see {name} --help)\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["metrix"], r"wespeaker-qm: error: argument SUBCOMMAND: found 'metrix'.*the nearest are metrics, "),
        (["--hlep"], r"wespeaker-qm: error: unknown option '--hlep'; the nearest are --help, -h "),
        (["metrics", "--scroes"], r"wespeaker-qm metrics: error: unknown option '--scroes'; the nearest are --"),
        (["metrics", "x", "--far=0.1", "--sed=1"], r"metrics: error: unknown option '--sed'; the nearest are --seed"),
        (["metrics", "x", "-far", "0.1"], r"metrics: error: unknown option '-far'; the nearest are --far"),
        (["metrics", "x", "--by", "spaeker"], r"argument --by: found 'spaeker', expected one of speaker, trial \(see"),
        (["bench", "haed"], r"BENCHMARK: found 'haed', expected one of head, loader, train, identify, table4; the"),
        (["threshold", "x", "y", "--far", "0.1"], r"threshold: error: found 'y', which belongs to no option \(see"),
    ],
)
def test_a_wrong_name_is_told_with_the_right_ones(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        program.main(arguments)
    assert caught.value.code == 1
    assert re.search(message, capsys.readouterr().err, re.DOTALL)


def test_what_only_looks_like_an_option_is_none(monkeypatch, capsys):
    """A negative number, and the value of an option that takes it with ``=``."""
    seen = []
    fake_subcommand(monkeypatch, lambda args: seen.append(args.exp_dir))
    for value in (["--exp_dir", "-1"], ["--exp_dir=--x"]):
        assert program.main(["score", *value]) == 0
    assert seen == ["-1", "--x"]


def test_a_value_that_begins_with_a_dash_is_told_how_to_be_given(capsys):
    with pytest.raises(SystemExit) as error:
        program.main(["prepare", "--corpus", "egs/folder", "--eval_speakers", "-x,-y"])
    assert error.value.code == 1
    assert "and as the value of --eval_speakers it is written --eval_speakers=-x,-y (see" in capsys.readouterr().err
    assert program.main(["prepare", "--corpus", "egs/folder", "--eval_speakers=-x,-y"]) == 1
    assert "give --audio_root FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["metrics", "x.score"], ["train"]])
def test_without_any_package_the_one_that_is_lacking_is_named(arguments):
    """A Python without site-packages; nothing but the standard library may be needed to say so."""
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from wespeaker_qm.bin.main import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(Path(__file__).parents[2]), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in result.stderr
    said = result.stdout if arguments == ["--help"] else result.stderr
    assert "install -e " in " ".join(said.split())


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\x9b1mb", "\u202egnp", "a\rb"])
def test_no_name_reaches_the_terminal_or_the_log_as_what_it_obeys(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("x\n")
    for command in (["metrics", f"{name}.none"], ["metrics", name], ["metrics", "x", f"--{name}"], ["doctor", name]):
        with contextlib.suppress(SystemExit):
            program.main([*command, "--log", "log"])
        shown = "".join(capsys.readouterr()) + ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else "")
        assert name not in shown
        assert repr(name)[1:-1] in shown
