"""The kit's pieces: what is carried in parts arrives whole, or somebody is told what is wrong."""

import random

import pytest
from pieces import MANIFEST, PieceError, cut, join, missing, read_manifest, receive

LIMIT = 400_000


@pytest.fixture
def files(tmp_path):
    """One file larger than a piece, one empty, some small; and what every piece holds."""
    chooser = random.Random(0)
    sizes = {"large.whl": 900_000, "empty.whl": 0, "middle.whl": 200_000, "small.whl": 7}
    (tmp_path / "sources").mkdir()
    for name, size in sizes.items():
        (tmp_path / "sources" / name).write_bytes(chooser.randbytes(size))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "prove.py").write_text("print()\n")
    return [tmp_path / "sources" / name for name in sizes]


@pytest.fixture
def pieces(files, tmp_path):
    """The same, cut."""
    return cut(files, tmp_path / "kit", LIMIT, [tmp_path / "code"])


def test_pieces_keep_to_their_limit_and_hold_what_starts_them(pieces):
    """Each can be carried alone: its own files, the manifest and the code are within the limit."""
    assert len(pieces) >= 3
    for piece in pieces:
        assert sum(path.stat().st_size for path in piece.rglob("*") if path.is_file()) <= LIMIT
        assert (piece / "code" / "prove.py").is_file()
        assert read_manifest(piece) == read_manifest(pieces[0])


def test_what_was_cut_is_joined_to_the_same_bytes(files, pieces, tmp_path):
    """From all pieces side by side; a second time nothing is written."""
    wholes = read_manifest(pieces[-1])
    joined = join(wholes, pieces, tmp_path / "files")
    assert [path.read_bytes() for path in joined] == [path.read_bytes() for path in files]
    before = [path.stat().st_mtime_ns for path in joined]
    assert [path.stat().st_mtime_ns for path in join(wholes, pieces, tmp_path / "files")] == before


def test_pieces_may_come_one_by_one(files, pieces, tmp_path):
    """Each may be gone when the next one arrives."""
    wholes, store = read_manifest(pieces[0]), tmp_path / "parts"
    names = [piece.name for piece in pieces]
    for number, piece in enumerate(pieces, start=1):
        receive(piece, store)
        assert missing(wholes, [store]) == names[number:]
    joined = join(wholes, [store], tmp_path / "files")
    assert [path.read_bytes() for path in joined] == [path.read_bytes() for path in files]


def test_a_missing_piece_is_named(pieces, tmp_path):
    """And nothing is put together without it."""
    wholes = read_manifest(pieces[0])
    with pytest.raises(PieceError, match=r"missing: piece-2$"):
        join(wholes, [pieces[0], *pieces[2:]], tmp_path / "files")
    assert not (tmp_path / "files").exists()


def join_all(pieces, folder):
    return join(read_manifest(pieces[0]), pieces, folder)


def receive_all(pieces, folder):
    for piece in pieces:
        receive(piece, folder)


@pytest.mark.parametrize("take", [join_all, receive_all])
def test_a_part_that_was_damaged_is_refused(pieces, tmp_path, take):
    """One bit is enough, and the part is named."""
    part = next(pieces[1].glob("*.part-*"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(PieceError, match=part.name):
        take(pieces, tmp_path / "files")


def test_another_folder_is_no_piece(tmp_path):
    """Whatever its manifest says."""
    (tmp_path / MANIFEST).write_text('[{"name": "x"}]')
    with pytest.raises(PieceError, match="no piece of a kit"):
        read_manifest(tmp_path)


def test_a_limit_that_leaves_no_room_is_refused(files, tmp_path):
    """Where what every piece holds fills it."""
    (tmp_path / "code" / "big").write_bytes(bytes(LIMIT))
    with pytest.raises(ValueError, match="raise the limit"):
        cut(files, tmp_path / "kit", LIMIT, [tmp_path / "code"])
