"""Open folders: bounded in number, and always the ones that were meant."""

from __future__ import annotations

import os

import pytest

from transporter.workloads.folders import Folder, FolderCache


@pytest.fixture
def cache():
    with_limit = FolderCache(4)
    yield with_limit
    with_limit.close_all()


def chain(tmp_path, depth) -> list[Folder]:
    folders = [Folder(None, os.fsencode(tmp_path))]
    path = tmp_path
    for _ in range(depth):
        path /= "d"
        path.mkdir()
        folders.append(Folder(folders[-1], b"d"))
    return folders


def test_no_more_are_open_than_the_limit(cache, tmp_path):
    folders = chain(tmp_path, 20)
    for folder in [*folders, *reversed(folders), folders[7], folders[20]]:
        fd = cache.fd(folder)
        assert (os.fstat(fd).st_dev, os.fstat(fd).st_ino) == (folder.dev, folder.inode)
        assert len(cache) <= 4
        assert sum(f.fd >= 0 for f in folders) == len(cache)


def test_the_one_used_last_is_kept(cache, tmp_path):
    folders = chain(tmp_path, 0)
    for name in "abcd":
        (tmp_path / name).mkdir()
        folders.append(Folder(folders[0], name.encode()))
    kept = cache.fd(folders[1])
    for folder in folders[2:]:
        cache.fd(folder)
        assert cache.fd(folders[1]) == kept


def test_a_link_is_not_a_folder(cache, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(NotADirectoryError):
        cache.fd(Folder(Folder(None, os.fsencode(tmp_path)), b"link"))


def test_a_folder_that_was_replaced_is_not_the_same(cache, tmp_path):
    _, folder = chain(tmp_path, 1)
    cache.fd(folder)
    cache.close(folder)
    (tmp_path / "d").rename(tmp_path / "e")
    (tmp_path / "d").mkdir()
    with pytest.raises(FileNotFoundError, match="replaced"):
        cache.fd(folder)


def test_a_root_opened_by_others_is_never_closed(cache, tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    root = Folder(None, b"", fd)
    (tmp_path / "d").mkdir()
    cache.fd(Folder(root, b"d"))
    assert cache.fd(root) == fd
    cache.close(root)
    cache.close_all()
    os.fstat(fd)
    os.close(fd)
