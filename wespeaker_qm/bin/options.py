"""Option types that several subcommands share."""

import argparse


def strict_bool(text: str) -> bool:
    """``true`` or ``false`` and nothing else, so that ``False`` cannot be taken for a non-empty, true string.

    >>> strict_bool("false")
    False
    """
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected true or false")
    return text == "true"
