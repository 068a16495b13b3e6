"""Serve the page until interrupted."""

import logging
import socket

import uvicorn

from wespeaker_qm.demo.app import create_app
from wespeaker_qm.enrolment.store import SpeakerStore
from wespeaker_qm.speaker.speaker import Speaker
from wespeaker_qm.utils.errors import RecipeError

HOST = "127.0.0.1"
PORT = 8097
LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})

logger = logging.getLogger(__name__)


def serve(model: Speaker, store: SpeakerStore, host: str = HOST, port: int = PORT) -> None:
    """Serve the page of a model.

    Args:
        model: what embeds and scores.
        store: of enrolled speakers.
        host: address to listen at. At another than this machine's own whoever reaches it can listen and forget.
        port: 0 for any that is free.

    Raises:
        RecipeError: nothing can listen there.
        KeyboardInterrupt: the only way in which it ends.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise RecipeError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror or error}); name another port, or 0 "
            "for any that is free"
        ) from error
    with listener:
        name = f"[{host}]" if ":" in host else host
        logger.info("http://%s:%d/ (to end: Ctrl-C)", name, listener.getsockname()[1])
        if host not in LOCAL_HOSTS:
            logger.warning(
                "--host %s: whoever reaches this address can enrol, identify and forget, unencrypted; browsers give no "
                "microphone there",
                host,
            )
        server_of(model, store, host).run(sockets=[listener])
    raise KeyboardInterrupt  # what alone ends the server; whether the event loop passes it on depends on the moment


def server_of(model: Speaker, store: SpeakerStore, host: str = HOST) -> uvicorn.Server:
    """The server of the page, which serves when it is run; arguments as those of :func:`serve`."""
    app = create_app(model, store, LOCAL_HOSTS | {host.lower()})
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="off"))
