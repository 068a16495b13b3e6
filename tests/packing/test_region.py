import io

from wespeaker_qm.packing.region import FileRegion


def test_a_region_of_a_file_is_a_file_of_its_own(tmp_path):
    """A decoder must not see what stands before or behind its recording in the tar."""
    (tmp_path / "file").write_bytes(b"behold")
    with (tmp_path / "file").open("rb") as handle:
        region, alone = FileRegion(handle.fileno(), 1, 4), io.BytesIO(b"ehol")
        for step in ((0,), (1,), (-3, 2), (-1, 1), (-9, 1), (6,)):
            assert region.seek(*step) == alone.seek(*step)
            assert [region.read(2), region.tell(), region.read()] == [alone.read(2), alone.tell(), alone.read()]
