"""Types for argparse that refuse what they do not understand."""

import argparse


def true_or_false(text: str) -> bool:
    """``true`` or ``false`` and nothing else: ``bool("False")`` is True.

    >>> true_or_false("false")
    False

    Raises:
        argparse.ArgumentTypeError: any other text.
    """
    if text not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected true or false")
    return text == "true"
