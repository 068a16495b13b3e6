#!/usr/bin/env python3
"""Say whether a host name or address is this machine's: exit status 0 if it is, 1 if not, 2 if it cannot be resolved.

    tools/is_this_machine.py HOST[:PORT]

An address belongs to a machine if a socket can be bound to it there.
"""

import socket
import sys


def is_this_machine(host: str) -> bool:
    """Whether ``host`` resolves to an address of this machine.

    Raises:
        OSError: it cannot be resolved.
    """
    for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False


def main(arguments: list[str]) -> int:
    """Resolve the host of the command line."""
    host, _, port = arguments[0].rpartition(":")
    if not (host and port.isdigit()):
        host = arguments[0]
    try:
        return 0 if is_this_machine(host.strip("[]")) else 1
    except OSError as error:
        print(f"{host}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
