"""The page's server, in a thread of its own."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from wespeaker_qm.audio.io import write_wav
from wespeaker_qm.demo.serve import server_of
from wespeaker_qm.enrolment.store import SpeakerStore


class Running:
    """A server that runs, and what a browser would ask it."""

    def __init__(self, port: int, store: SpeakerStore) -> None:
        self.port, self.store = port, store

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and content of an answer; a body that is not bytes goes as JSON."""
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None and not {"Content-Length", "Transfer-Encoding"} & headers.keys():
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        is_json = answer.getheader("Content-Type", "").startswith("application/json")
        return answer.status, dict(answer.getheaders()), json.loads(content) if is_json else content.decode()

    def post(self, path: str, body: Any) -> Any:
        """What the server says to a request that succeeds."""
        status, _, content = self.ask("POST", path, body)
        assert status == 200, content
        return content


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Running]]:
    """Function: serve the page of a model."""
    running = []

    def run(model: Any) -> Running:
        store = SpeakerStore(tmp_path / "speakers.sqlite")
        listener = socket.create_server(("127.0.0.1", 0))
        server = server_of(model, store)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread, listener))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return Running(listener.getsockname()[1], store)

    yield run
    for server, thread, listener in running:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def page(start, model) -> Running:
    return start(model)


@pytest.fixture
def wav(tone, tmp_path) -> Callable[..., Any]:
    """Function: path of two seconds of a pitch."""

    def make(pitch_hz: float, seed: int = 0) -> Any:
        path = tmp_path / f"{pitch_hz:.0f}-{seed}.wav"
        write_wav(path, np.asarray(tone(pitch_hz, seed)), 8000)
        return path

    return make
