"""tools/is_this_machine.py: which machine is the first."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "is_this_machine.py"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 0),
        ("localhost:29400", 0),
        ("127.0.0.1:29400", 0),
        (socket.gethostname(), 0),
        ("192.0.2.1:29400", 1),
        ("192.0.2.1", 1),
        ("no.such.host.invalid:29400", 2),
    ],
)
def test_a_host_is_this_machine_or_not(host: str, status: int) -> None:
    result = subprocess.run([sys.executable, str(SCRIPT), host], capture_output=True, text=True)
    assert result.returncode == status, result.stderr
