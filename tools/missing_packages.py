"""Print what this interpreter lacks of the given requirement files, one package a line; nothing when it lacks nothing.

Reads package metadata only, so that it takes a moment and not the seconds that importing torch takes.

    python tools/missing_packages.py requirements/base.txt requirements/test.txt
"""

import platform
import re
import sys
from importlib import metadata

OLDEST_PYTHON = (3, 11)


def numbers(version):
    """The leading numbers of a version: "2.14.1+cpu" -> [2, 14, 1]."""
    return [int(number) for number in re.match(r"[0-9.]*[0-9]|", version).group().split(".") if number]


def is_missing(requirement):
    """Whether ``name``, ``name>=version`` or ``name<version`` is not met; no on other systems than it names, if any."""
    requirement, _, marker = requirement.partition(";")
    if marker and platform.system() != re.fullmatch(r"\s*platform_system == '(\w+)'\s*", marker)[1]:
        return False
    name, bound, version = re.fullmatch(r"([A-Za-z0-9_.-]+?)(?:(>=|<)(.+))?", requirement.strip()).groups()
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return True
    if installed is None:  # it was installed by half, on a full disk say
        return True
    if bound is None:
        return False
    return (numbers(installed) < numbers(version)) == (bound == ">=")


def main(files):
    """Print the missing packages of ``files``."""
    if sys.version_info < OLDEST_PYTHON:
        print("python>=" + ".".join(map(str, OLDEST_PYTHON)))
    for file in files:
        with open(file, encoding="utf-8") as handle:
            requirements = [line.strip() for line in handle if line.strip() and not line.startswith("#")]
        print("".join(requirement + "\n" for requirement in requirements if is_missing(requirement)), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
