"""Part of a file as a file: one recording in a tar, decoded without a copy of it."""

import io
import os


class FileRegion(io.RawIOBase):
    """A read-only, seekable view of bytes of an open file, for a decoder.

    Args:
        descriptor: of the file; it is not closed, and its position does not move.
        offset: the first byte.
        num_bytes: how many there are.
    """

    def __init__(self, descriptor: int, offset: int, num_bytes: int) -> None:
        self._descriptor, self._offset, self._num_bytes, self._at = descriptor, offset, num_bytes, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Move within the region, and return the place in it."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = max(0, origin + position)
        return self._at

    def tell(self) -> int:
        """The place in the region."""
        return self._at

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """Fill ``buffer`` as far as the region goes, and return the number of bytes."""
        count = max(0, min(len(buffer), self._num_bytes - self._at))
        data = os.pread(self._descriptor, count, self._offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
