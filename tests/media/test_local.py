"""The mounted local files folder: what is in it, and nothing else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from backend.media.errors import MediaError, Reason
from backend.media.label_studio_media import local_files_path
from backend.media.local_files import LocalFiles


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.jpg").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "root-sibling").mkdir()
    (tmp_path / "root-sibling" / "x").write_bytes(b"outside")
    return folder


def local_files(root: Path, max_bytes: int = 100) -> LocalFiles:
    return LocalFiles(root, max_bytes=max_bytes, max_stream_bytes=1000)


def test_finds_a_file(root: Path) -> None:
    found = local_files(root).find("sub/a.jpg")
    assert found.path.read_bytes() == b"inside"
    assert (found.content_key, found.size) == (hashlib.sha256(b"inside").hexdigest(), 6)


def test_leading_slash_means_the_root(root: Path) -> None:
    assert local_files(root).find("/sub/a.jpg").size == 6


@pytest.mark.parametrize(
    "relative",
    ["../secret", "sub/../../secret", "/../secret", "..\\secret", "../root-sibling/x",
     "sub/../sub/a.jpg", "a\0b", ".."],
)  # fmt: skip
def test_climbing_out_is_refused(root: Path, relative: str) -> None:
    with pytest.raises(MediaError) as caught:
        local_files(root).find(relative)
    assert caught.value.reason is Reason.REFUSED


@pytest.mark.parametrize("target", ["../secret", "/etc/hostname", "../root-sibling"])
def test_links_out_of_the_root_are_refused(root: Path, target: str) -> None:
    (root / "link").symlink_to(target)
    relative = "link/x" if target.endswith("sibling") else "link"
    with pytest.raises(MediaError, match="link that leaves") as caught:
        local_files(root).find(relative)
    assert caught.value.reason is Reason.REFUSED


def test_links_within_the_root_work(root: Path) -> None:
    (root / "link").symlink_to("sub/a.jpg")
    assert local_files(root).find("link").size == 6


def test_absolute_paths_stay_below_the_root(root: Path) -> None:
    with pytest.raises(MediaError) as caught:
        local_files(root).find("/etc/hostname")
    assert caught.value.reason is Reason.NOT_FOUND


@pytest.mark.parametrize("relative", ["nothing.jpg", "sub", "sub/a.jpg/b", "x" * 5000])
def test_what_is_no_file_is_not_found(root: Path, relative: str) -> None:
    with pytest.raises(MediaError) as caught:
        local_files(root).find(relative)
    assert caught.value.reason is Reason.NOT_FOUND


def test_devices_and_pipes_are_not_opened(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(MediaError):
        local_files(root).find("pipe")


def test_link_loops_end(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(MediaError):
        local_files(root).find("loop")


def test_size_limit(root: Path) -> None:
    with pytest.raises(MediaError) as caught:
        local_files(root, 5).find("sub/a.jpg")
    assert caught.value.reason is Reason.TOO_LARGE


def test_changed_file_gets_another_key(root: Path) -> None:
    files = local_files(root)
    before = files.find("sub/a.jpg").content_key
    assert files.find("sub/a.jpg").content_key == before
    (root / "sub" / "a.jpg").write_bytes(b"other content")
    assert files.find("sub/a.jpg").content_key == hashlib.sha256(b"other content").hexdigest()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/data/local-files/?d=a/b.jpg", "a/b.jpg"),
        ("/data/local-files?d=a.jpg", "a.jpg"),
        ("/ls/data/local-files/?d=" + quote("a b&c.jpg"), "a b&c.jpg"),
        ("/data/local-files/?d=first&d=last", "last"),
        ("/data/local-files/?x=1", None),
        ("/data/upload/1/x?d=a", None),
        ("s3://bucket/data/local-files", None),
    ],
)
def test_reads_the_address_as_label_studio_does(uri: str, path: str | None) -> None:
    assert local_files_path(uri) == path
