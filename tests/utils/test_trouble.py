import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from wespeaker_qm.utils.checksums import GrowingText
from wespeaker_qm.utils.files import atomic_path
from wespeaker_qm.utils.parallel import ordered_map
from wespeaker_qm.utils.trouble import ProcessDiedError, trouble

_WRITERS = {
    "text": "write_text(folder / 'file.txt', 'x' * 10**5)",
    "tensors": "checkpoint.save({'weight': torch.zeros(10**5)}, folder / 'file.pt')",
    "array": "with checked_path(folder / 'file.npy') as path: np.save(path, np.zeros(10**5))",
    "embeddings": "write_vectors(folder, 'file', ['a'], np.zeros((1, 10**5), np.float32))",
    "audio": "write_wav(folder / 'file.wav', np.zeros(10**5, np.float32), 16000)",
    "figure": "save_plot(figure, [folder / 'file.png'])",
}
_PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from matplotlib.figure import Figure
from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.network import checkpoint
from wespeaker_qm.report.plotting import save_plot
from wespeaker_qm.utils.checksums import checked_path
from wespeaker_qm.utils.files import write_text
from wespeaker_qm.utils.trouble import ProcessDiedError, trouble
from wespeaker_qm.utils.vectors import write_vectors
folder, figure = Path(sys.argv[1]), Figure()
figure.subplots().plot(np.random.default_rng(0).random(1000))
writers = {writers}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for writer in writers:
    try:
        exec(writer)
    except Exception as error:
        print(trouble(error))
"""


def test_every_writer_names_the_file_that_no_more_goes_into(tmp_path):
    """As of a full disk, where a file cannot grow: a limit of sizes does the same to a process of its own."""
    program = _PROGRAM.format(writers=list(_WRITERS.values()))
    run = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    messages = run.stdout.splitlines()
    assert len(messages) == len(_WRITERS), run.stdout + run.stderr
    for message in messages:
        assert message.startswith(f"{tmp_path}/file."), message
        assert "; " in message
    assert not list(tmp_path.iterdir())


def _raised(function):
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_every_error_of_a_file_system_has_a_remedy(number):
    message = trouble(OSError(number, os.strerror(number), "exp/a"))
    assert message.startswith(f"exp/a: {os.strerror(number)}; ")


def test_a_folder_that_cannot_be_made_because_of_a_link_names_the_link(tmp_path):
    (tmp_path / "exp").symlink_to("exp")
    (tmp_path / "gone").symlink_to("nothing/here")
    for name in ("exp", "gone"):
        message = trouble(_raised(partial((tmp_path / name).mkdir, parents=True, exist_ok=True)))
        assert message.startswith(f"{tmp_path / name}: is a link to ")
        assert message.endswith("which leads in a circle or to nothing: remove it, or name another place")
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()


def test_the_name_is_that_of_the_file_that_is_meant_not_of_the_temporary_one(tmp_path):
    def write():
        with atomic_path(tmp_path / "a.txt") as temporary:
            raise OSError(errno.ENOSPC, "No space left on device", str(temporary))

    assert trouble(_raised(write)).startswith(f"{tmp_path}/a.txt: No space left on device; free")


def test_a_log_that_can_grow_no_more_is_named(tmp_path):
    log = GrowingText(tmp_path / "train_log.jsonl", "one\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))
    try:
        error = _raised(partial(log.add, "two\n"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.close()
    assert trouble(error).startswith(f"{tmp_path}/train_log.jsonl: File too large; ")


def test_a_file_that_is_read_while_another_is_written_keeps_its_name(tmp_path):
    def write():
        with atomic_path(tmp_path / "a.txt"):
            (tmp_path / "b.txt").read_text()

    assert trouble(_raised(write)).startswith(f"{tmp_path}/b.txt: No such file or directory; ")


def _kill(number):
    os.kill(os.getpid(), number)
    time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_dies_is_no_bug_and_its_signal_is_told(number):
    """Of the others, which the pool ends by SIGTERM, nothing is said."""
    message = trouble(_raised(lambda: list(ordered_map(_kill, [number] * 2, 2))))
    assert message.startswith(f"a process was killed by {number.name} (")


DEATHS = {
    signal.SIGKILL: r"a process was killed by SIGKILL \(out of memory\?\); close other programs, or take less",
    signal.SIGSEGV: r"a process was killed by SIGSEGV \(a fault in a compiled library, or in a kernel of ",
    signal.SIGBUS: r"a process was killed by SIGBUS \(.* a full /dev/shm\); make /dev/shm larger",
    signal.SIGILL: r"a process was killed by SIGILL \(an instruction that this CPU does not have\); install builds",
    signal.SIGABRT: r"a process was killed by SIGABRT \(a library gave up",
    signal.SIGHUP: r"a process was killed by SIGHUP; see what it has said above",
    signal.SIGRTMIN + 1: r"a process was killed by signal 35; see ",
}


@pytest.mark.parametrize("number", DEATHS)
def test_only_a_kill_is_blamed_on_memory(number, monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    message = trouble(ProcessDiedError(-number))
    assert re.match(DEATHS[number], message)
    assert ("memory" in message) is (number == signal.SIGKILL)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("number", "is_named"), [(signal.SIGSEGV, True), (signal.SIGILL, True), (signal.SIGKILL, False)]
)
def test_a_variable_that_makes_kernels_crash_is_named_where_it_is_set(number, is_named, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert ("; unset ATEN_CPU_CAPABILITY (found avx2), " in trouble(ProcessDiedError(-number))) is is_named


def test_a_process_that_ends_by_itself_is_told_with_its_status():
    assert trouble(ProcessDiedError(3)).startswith("a process ended with exit status 3; see what it has said above")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Killed. ", "was killed by SIGKILL (out of memory?); close other programs"),
        ("Segmentation fault. ", "was killed by SIGSEGV (a fault in a compiled library"),
        ("Terminated. ", "was killed by SIGTERM (somebody ended it); run the same command again"),
        (
            "Bus error. It is possible that dataloader's workers are out of shared memory. Please try to raise your "
            "shared memory limit.",
            "was killed by SIGBUS (a file that became shorter while it was read, or a full /dev/shm); make /dev/shm",
        ),
    ],
)
def test_a_worker_of_the_loader_is_blamed_likewise(said, told):
    """What PyTorch says of it."""
    assert trouble(RuntimeError(f"DataLoader worker (pid 12) is killed by signal: {said}")).startswith(
        f"DataLoader worker (pid 12) {told}"
    )


def test_a_worker_of_which_nobody_knows_the_signal():
    message = trouble(RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"))
    assert message.startswith("DataLoader worker (pid(s) 12, 13) exited unexpectedly; the system kills processes when")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed."),
        RuntimeError("Symlink loop from 'exp'"),
        UnicodeEncodeError("utf-8", "M\udcfcller", 1, 2, "surrogates not allowed"),
    ],
)
def test_what_has_no_file_is_one_line_with_a_remedy(error):
    message = trouble(error)
    assert "; " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), RuntimeError("shape mismatch"), AssertionError(), TypeError("x")]
)
def test_bugs_are_none(error):
    assert trouble(error) is None
