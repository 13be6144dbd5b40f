import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.classification.image_shards import images
from datamodules.files.image_files import size_in_header
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.shards import CaptionedShards
from tests.datamodules.classification.image_shards.shards import encoded, write_parquet, write_tar

SAMPLES = [(f"{number}", encoded(number % 3, number), number) for number in range(7)]


def image_of(width: int, height: int) -> bytes:
    Image.new("RGB", (width, height)).save(memory := io.BytesIO(), "PNG")
    return memory.getvalue()


def write(root: Path, kind: str) -> list[str]:
    """Write seven images of 40 x 30 in two shards; the green value encodes the position of the image."""
    captions = [f"caption {number} \N{SNOWMAN}" for number in range(7)]
    for shard, part in enumerate((SAMPLES[:4], SAMPLES[4:])):
        if kind == "parquet":
            text = {"text": [captions[number] for *_, number in part]}
            write_parquet(root / f"{shard}.parquet", part, rows=3, **text)
            continue
        members = []
        for name, image, number in part:
            said = captions[number].encode() if kind == "txt" else json.dumps({"text": captions[number]}).encode()
            members += [(f"{name}.png", image), (f"{name}.{kind}", said), (f"{name}.cls", b"3")]
        write_tar(root / f"{shard}.tar", members)
    return captions


@pytest.mark.parametrize("kind", ["txt", "json", "parquet"])
def test_images_and_captions_of_all_shards_are_read_by_position(kind: str, tmp_path: Path) -> None:
    captions = write(tmp_path, kind)
    images = CaptionedShards(str(tmp_path), image_size=16, buckets=Buckets(8))
    assert images.has_captions()
    captioned = images.training()
    assert captioned.captions == captions
    row = torch.tensor([6, 0, 4, 3])
    image = captioned.source.fetch(row, None)
    assert image.shape == (4, 3, 8, 16) or image.shape == (4, 3, 16, 16)
    assert image[:, 1, 4, 4].tolist() == [10 * number for number in row.tolist()]
    assert captioned.source.size_conditions(row, None)[:, :2].tolist() == [[30, 40]] * 4  # type: ignore[attr-defined]
    encoded = captioned.source.source.encoded()  # type: ignore[attr-defined]
    assert [*encoded] == [image for _, image, _ in SAMPLES]
    one = CaptionedShards(str(tmp_path), image_size=16, prompt="a photo of sks").training()
    assert one.captions == ["a photo of sks"] * 7


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_image_headers_are_read_once_unless_a_shard_changes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset is constructed twice: by the checks before the model is built, and by setup."""
    write(tmp_path, kind)
    read: list[str] = []

    def counted(name: str, content: bytes) -> tuple[int, int]:
        read.append(name)
        return size_in_header(name, content)

    monkeypatch.setattr(images, "size_in_header", counted)

    def sizes() -> list[list[int]]:
        data = CaptionedImages(CaptionedShards(str(tmp_path), image_size=16, buckets=Buckets(8)), batch_size=2)
        data.require_captions("a model")
        data.check_ranks(2)
        data.setup("fit")
        return data.train_set.captioned.source.size.tolist()  # type: ignore[attr-defined]

    assert sizes() == sizes() == [[30, 40]] * 7
    assert len(read) == 7
    other = [(name, image_of(20, 50), number) for name, _, number in SAMPLES[4:]]
    if kind == "parquet":
        write_parquet(tmp_path / "1.parquet", other, text=["a", "b", "c"])
    else:
        write_tar(tmp_path / "1.tar", [m for n, image, _ in other for m in ((f"{n}.png", image), (f"{n}.txt", b"a"))])
    assert sizes() == [[30, 40]] * 4 + [[50, 20]] * 3
    assert len(read) == 7 + 3


def without_caption(root: Path) -> None:
    write_tar(root / "0.tar", [("a.png", SAMPLES[0][1]), ("a.txt", b"x"), ("b.png", SAMPLES[1][1])])


def without_key(root: Path) -> None:
    write_tar(root / "0.tar", [("a.png", SAMPLES[0][1]), ("a.json", b'{"caption": "x"}')])


def of_another_encoding(root: Path) -> None:
    write_tar(root / "0.tar", [("a.png", SAMPLES[0][1]), ("a.txt", b"\xff\xfe")])


def without_column(root: Path) -> None:
    write_parquet(root / "0.parquet", SAMPLES[:2])


def with_numbers(root: Path) -> None:
    write_parquet(root / "0.parquet", SAMPLES[:2], text=[1, 2])


def with_a_gap(root: Path) -> None:
    write_parquet(root / "0.parquet", SAMPLES[:2], text=["a", None])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            without_caption,
            r"0\.tar .* captioned images: the sample b has no caption: it has neither b\.txt nor b\.json",
        ),
        (without_key, r"a\.json does not contain 'text'"),
        (of_another_encoding, r"0\.tar cannot be read as a tar shard of captioned images: 'utf-8' codec"),
        (without_column, "caption_column text is not a column; the columns are image, label"),
        (with_numbers, "the column text must hold captions, as text, got int64"),
        (with_a_gap, "row 1 has no caption"),
    ],
)
def test_what_is_missing_is_named(damage: Any, message: str, tmp_path: Path) -> None:
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        CaptionedShards(str(tmp_path), image_size=16).has_captions()


@pytest.mark.parametrize("damage", [without_caption, without_column])
def test_captions_are_not_needed_for_one_prompt_or_an_unconditional_model(damage: Any, tmp_path: Path) -> None:
    damage(tmp_path)
    assert CaptionedShards(str(tmp_path), image_size=16, prompt="a").training().captions == ["a", "a"]
    plain = CaptionedShards(str(tmp_path), image_size=16, caption_column=None)
    assert not plain.has_captions()
    assert plain.training().source.fetch(torch.tensor([1, 0]), None).shape == (2, 3, 16, 16)
