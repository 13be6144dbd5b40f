"""Positions of images in tar shards, and rejections of malformed shards from other sources."""

import io
import re
import tarfile
from pathlib import Path

import pytest

from datamodules.classification.image_shards.tar_shards import read_tar_index
from tests.datamodules.classification.image_shards.shards import encoded, samples, tar_members, write_tar

Members = list[tuple[str, bytes]]
IMAGE = encoded(1, 2)


def refused(path: Path, sentence: str) -> None:
    with pytest.raises(ValueError, match="cannot be read as a tar shard of labelled images") as raised:
        read_tar_index(path, "label")
    assert str(raised.value).startswith(str(path))
    assert re.search(sentence, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_index_says_where_each_image_lies(tmp_path: Path) -> None:
    members = [
        ("b/0.jpg", IMAGE),
        ("b/0.cls", b"2\n"),
        ("a.1.x.json", b"{}"),  # column 1.x.json of the sample a, which is ignored
        ("__meta__.json", b"["),
        ("1.json", b'{"label": 0, "target": 1}'),
        ("1.txt", b"a caption"),
        ("1.seg.png", b"a mask"),
        ("1.WEBP", IMAGE + b"1"),
    ]
    path = write_tar(tmp_path / "0.tar", members)
    index = read_tar_index(path, "target")
    assert index.name.tolist() == [b"b/0.jpg", b"1.WEBP"]
    assert index.label.tolist() == [2, 1]
    content = path.read_bytes()
    found = [content[start : start + size] for start, size in zip(index.offset, index.size, strict=True)]
    assert found == [IMAGE, IMAGE + b"1"]


def test_archives_of_every_format_are_read(tmp_path: Path) -> None:
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        name = f"{'folder/' * 20}0.jpg"  # longer than the 100 bytes of a header
        with tarfile.open(tmp_path / "0.tar", "w", format=format) as archive:
            for member, content in ((name, IMAGE), (name.replace("jpg", "cls"), b"1")):
                described = tarfile.TarInfo(member)
                described.size = len(content)
                archive.addfile(described, io.BytesIO(content))
        index = read_tar_index(tmp_path / "0.tar", "label")
        assert index.name.tolist() == [name.encode()]
        assert (tmp_path / "0.tar").read_bytes()[index.offset[0] :].startswith(IMAGE)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([("a.jpg", IMAGE)], r"the sample a has no label, neither a\.cls nor a\.json"),
        ([("a.cls", b"1")], r"the sample a has 0 images, but must have one; its columns are cls"),
        ([("a.jpg", IMAGE), ("a.png", IMAGE), ("a.cls", b"1")], r"the sample a has 2 images, .* cls, jpg, png"),
        ([("a.jpg", IMAGE), ("a.cls", b"cat")], r"the label in a\.cls must be a whole number, got 'cat'"),
        ([("a.jpg", IMAGE), ("a.cls", b"1" * 99)], r"a\.cls has 99 bytes, more than the limit of 64 bytes"),
        ([("a.jpg", IMAGE), ("a.json", b'{"class": 1}')], r"a\.json does not contain 'label'"),
        ([("a.jpg", IMAGE), ("a.json", b"[" * 100_000)], r"a\.json does not contain 'label'"),
        ([("a.jpg", IMAGE), ("a.json", b'{"label": "cat"}')], r"'label' in a\.json must be a whole number, got 'cat'"),
        ([("a.jpg", IMAGE), ("a.jpg", IMAGE), ("a.cls", b"1")], r"it contains a\.jpg twice"),
        (
            [*tar_members([("a", IMAGE, 1), ("b", IMAGE, 1)]), ("a.jpg", IMAGE), ("a.cls", b"1")],
            r"the sample a are not consecutive",
        ),
        ([("a.txt", b"1")], r"it contains no image"),
        ([], r"labelled images: .+"),
    ],
)
def test_samples_that_are_none_are_refused_in_a_sentence(members: Members, sentence: str, tmp_path: Path) -> None:
    refused(write_tar(tmp_path / "0.tar", members), sentence)


def test_a_shard_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Even truncation at the end of a member is rejected, which the tar format itself cannot detect."""
    content = write_tar(tmp_path / "whole.tar", tar_members(samples(2, 2))).read_bytes()
    last = read_tar_index(tmp_path / "whole.tar", "label").offset[-1]
    for end in (0, 100, 512, 700, int(last) - 512, int(last) + 10, int(last) + 1024):
        (tmp_path / "0.tar").write_bytes(content[:end])
        refused(tmp_path / "0.tar", ".")
    (tmp_path / "0.tar").write_bytes(content[:512] + b"x" * 512 + content[1024:])  # the image is not decoded
    assert len(read_tar_index(tmp_path / "0.tar", "label").label) == 4
    changed = bytearray(content)
    changed[int(last) - 512 : int(last) - 500] = b"x" * 12  # the checksum of a header is wrong
    (tmp_path / "0.tar").write_bytes(changed)
    refused(tmp_path / "0.tar", "the file is damaged$")


def test_links_and_sparse_members_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(IMAGE)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        with tarfile.open(tmp_path / "0.tar", "w") as archive:
            member = tarfile.TarInfo("a.jpg")
            member.type, member.linkname = kind, str(secret)
            archive.addfile(member)
            label = tarfile.TarInfo("a.cls")
            label.size = 1
            archive.addfile(label, io.BytesIO(b"1"))
        refused(tmp_path / "0.tar", "the sample a has 0 images")
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(IMAGE)
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50)}
        archive.addfile(member, io.BytesIO(IMAGE))
    refused(tmp_path / "0.tar", "declares more bytes than the file has")
