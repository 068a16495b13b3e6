"""The command: it says where the page is, listens to this machine alone, and ends when it is told to."""

import http.client
import os
import re
import signal
import subprocess
import sys

import pytest

from wespeaker_qm.demo.serve import HOST, serve
from wespeaker_qm.utils.errors import RecipeError


def test_it_listens_to_this_machine_alone():
    assert HOST == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_a_place_where_nothing_can_listen_is_told(page, host, model):
    with pytest.raises(RecipeError, match=rf"--host {host} --port {page.port}: cannot listen there .*another port"):
        serve(model, page.store, host, page.port)


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    """In a process of its own, with a model that is never asked."""
    code = (
        "import sys, types\n"
        "from wespeaker_qm.speaker.speaker import Speaker\n"
        "Speaker.load = classmethod(lambda cls, path, device='auto': types.SimpleNamespace())\n"
        "from wespeaker_qm.bin.main import main\n"
        f"sys.exit(main(['demo', '--port', '0', '--model', 'any', '--store', {str(tmp_path / 'x.sqlite')!r}]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ \(to end: Ctrl-C\)\n", process.stdout.readline())
        assert found is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        connection.request("GET", "/api/speakers")
        assert connection.getresponse().read() == b"[]"
        connection.close()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in errors
