"""atomic_write: the old file or the whole new one."""

from __future__ import annotations

import os
import sys

import pytest

from tinyres.files import atomic_write


@pytest.mark.parametrize(("mode", "content"), [("w", "σ, 1\r\n2\n"), ("wb", b"\x00\r\n\xff")])
def test_it_writes_text_and_bytes_as_they_are(tmp_path, mode, content):
    path = tmp_path / "file"
    with atomic_write(path, mode) as file:
        file.write(content)
    assert path.read_bytes() == (content if mode == "wb" else content.encode())


def test_it_makes_missing_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with atomic_write(path) as file:
        file.write("here")
    assert path.read_text() == "here"


def test_it_takes_a_path_as_text(tmp_path):
    with atomic_write(str(tmp_path / "file")) as file:
        file.write("here")
    assert (tmp_path / "file").read_text() == "here"


def test_the_old_file_is_there_until_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 2
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_old_file_stays_and_nothing_else_where_the_block_raises(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write("half of it")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_where_there_was_none_and_the_block_raises(tmp_path):
    with pytest.raises(ValueError, match="stop"), atomic_write(tmp_path / "file") as file:
        file.write("half of it")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_stays(tmp_path):
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError), atomic_write(path) as file:
        file.write("new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes of this kind")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_readers_are_those_the_umask_allows(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file") as file:
            file.write("private or not")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
