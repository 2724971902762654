"""Archives from elsewhere: nothing of theirs may decide where a file goes."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks.paper.unpacking import members
from fedwon.common.errors import BrokenFile

OUTSIDE = ["../evil.jpg", "a/../../evil.jpg", "/tmp/evil.jpg", "..\\evil.jpg", "C:/evil.jpg", "a/.."]


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, name.encode())
    return path


def tarred(path: Path, *names: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = len(name) if kind == tarfile.REGTYPE else 0
            file.addfile(info, io.BytesIO(name.encode()))
    return path


@pytest.mark.parametrize("make", [zipped, tarred])
def test_files_come_with_their_content_and_hidden_ones_do_not(tmp_path: Path, make: object) -> None:
    archive = make(tmp_path / "archive", "set/cat/1.jpg", "set/.DS_Store", "set/dog/2.jpg")  # type: ignore[operator]
    assert [(str(member.path), member.read()) for member in members(archive)] == [
        ("set/cat/1.jpg", b"set/cat/1.jpg"),
        ("set/dog/2.jpg", b"set/dog/2.jpg"),
    ]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, make: object, name: str) -> None:
    archive = make(tmp_path / "archive", name)  # type: ignore[operator]
    with pytest.raises(BrokenFile, match="a path that may lead out of its folder"):
        list(members(archive))


def test_a_zip_is_refused_before_its_first_file_is_handed_out(tmp_path: Path) -> None:
    with pytest.raises(BrokenFile):
        next(members(zipped(tmp_path / "a.zip", "good.jpg", "../evil.jpg")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(BrokenFile, match=r"a link or device, 'a/1.jpg'"):
        list(members(tarred(tmp_path / "a.tar.gz", "a/1.jpg", kind=kind)))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a/1.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(BrokenFile, match=r"a link, 'a/1.jpg'"):
        list(members(tmp_path / "a.zip"))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_file_that_is_too_large_is_refused(tmp_path: Path, make: object) -> None:
    with pytest.raises(BrokenFile, match="a file of 7 bytes"):
        list(members(make(tmp_path / "a", "a/1.jpg"), largest=6))  # type: ignore[operator]


def test_what_is_no_archive_or_cut_short_is_said(tmp_path: Path) -> None:
    page = tmp_path / "set.zip"
    page.write_bytes(b"<html>Please sign in</html>")
    short = tarred(tmp_path / "a.tar.gz", *(f"a/{number}.jpg" for number in range(500)))
    short.write_bytes(short.read_bytes()[:-200])
    for path in (page, short):
        with pytest.raises(BrokenFile, match="cannot be unpacked"):
            [member.read() for member in members(path)]
