"""Shards on a web server that answers range requests, read without a copy."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from datamodules.classification.image_shards.parquet_shards import ParquetShard
from datamodules.loading import Loading
from datamodules.prompts import streamed_shards
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.several_sets import SeveralSets, WeightedSet
from datamodules.prompts.shards import CaptionedShards
from datamodules.prompts.streamed_shards import StreamedShards
from tests.datamodules.classification.image_shards.shards import encoded, write_parquet

COUNTS = (10, 7, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three shards with row groups of three images; the green value encodes the position of the image."""
    root, first = tmp_path_factory.mktemp("shards"), 0
    for shard, count in enumerate(COUNTS):
        part = [(str(number), encoded(0, number), 0) for number in range(first, first + count)]
        write_parquet(root / f"{shard}.parquet", part, rows=3, text=[f"caption {name}" for name, *_ in part])
        first += count
    return root


class Server(ThreadingHTTPServer):
    root: Path
    failures: int


class Ranges(BaseHTTPRequestHandler):
    """Serve the bytes of range requests, and fail as often as the server says."""

    server: Server

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_body: bool) -> None:
        path = self.server.root / self.path.lstrip("/")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "bytes=0-")
        if not path.is_file() or asked is None or (with_body and self.server.failures > 0):
            self.server.failures -= path.is_file()
            self.send_error(503 if path.is_file() else 404)
            return
        content, first = path.read_bytes(), int(asked[1])
        part = content[first : int(asked[2] or len(content)) + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            self.wfile.write(part)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Ranges) as own:
        own.root, own.failures = folder, 0
        threading.Thread(target=own.serve_forever, daemon=True).start()
        yield own
        own.shutdown()


def urls(server: Server) -> list[str]:
    return [f"http://127.0.0.1:{server.server_port}/{shard}.parquet" for shard in range(3)]


def positions(batch: dict[str, Any]) -> list[int]:
    return (batch["image"][:, 1, 4, 4] * 25.5).round().int().tolist()


def data(addresses: list[str], lanes: int = 2, **arguments: Any) -> CaptionedImages:
    made = CaptionedImages(StreamedShards(addresses, image_size=16, lanes=lanes), batch_size=4, **arguments)
    made.setup("fit")
    return made


def test_a_server_gives_what_a_local_copy_gives(server: Server, folder: Path) -> None:
    """Images, captions and size conditions are those of the files; workers read them, too."""
    streamed = data(urls(server), loading=Loading(num_workers=2, seed=0))
    local = CaptionedShards(str(folder), image_size=16).training()
    assert streamed.train_set is not None
    assert streamed.train_set.captioned.captions == local.captions
    seen: Counter[int] = Counter()
    for batch in streamed.train_dataloader():
        assert batch["caption"] == [f"caption {number}" for number in positions(batch)]
        assert batch["size_conditions"][:, :2].tolist() == [[30, 40]] * len(batch["image"])
        seen.update(positions(batch))
    assert seen == Counter(range(sum(COUNTS)))
    row = torch.tensor([25, 3, 11])
    expected = local.source.fetch(row, None)
    assert torch.equal(streamed.train_set.captioned.source.fetch(row, None), expected)


def test_each_row_group_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    group = ParquetShard.group

    def counted(shard: ParquetShard, number: int) -> Any:
        read.append((str(shard.path), number))
        return group(shard, number)

    monkeypatch.setattr(ParquetShard, "group", counted)
    streamed = data([f"file://{folder}/*.parquet"], loading=Loading(num_workers=0, seed=0))
    list(streamed.train_dataloader())
    assert len(read) == len(set(read)) == 10


def test_two_ranks_read_what_one_reads_and_a_resumed_run_what_is_left(folder: Path) -> None:
    files = [f"file://{folder}/*.parquet"]

    def batches(rank: int, world_size: int, epoch: int = 1, skip: int = 0) -> list[list[int]]:
        one = data(files, loading=Loading(num_workers=0, seed=3))
        one.load_state_dict({"epoch": epoch, "batches": skip})
        return [request.indices.tolist() for request in one.training_batches(epoch, rank, world_size)]

    whole, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    for every, even, odd in zip(whole[:6], first, second, strict=True):  # two ranks drop the short batch
        assert every[::2] == even
        assert every[1::2] == odd
    assert batches(0, 1, skip=4) == whole[4:]
    assert batches(0, 1, epoch=2) != whole


def test_whole_row_groups_are_held_out(folder: Path) -> None:
    held = data([f"file://{folder}/*.parquet"], loading=Loading(seed=0), validation_fraction=0.2)
    assert held.train_set is not None
    assert held.validation_set is not None
    group = held.train_set.captioned.number
    assert group is not None
    assert group.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] + [4] * 3 + [5] * 3 + [6] + [7] * 3 + [8] * 3 + [9] * 3
    train, validation = (set(group[each.row.numpy()]) for each in (held.train_set, held.validation_set))
    assert train.isdisjoint(validation)
    assert len(validation) == 2


def test_shards_without_rows_are_skipped_and_no_rows_at_all_are_reported(folder: Path, tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(folder / "1.parquet")
    for name, rows in (("0", 0), ("1", len(table)), ("2", 0)):
        pyarrow.parquet.write_table(table.slice(0, rows), tmp_path / f"{name}.parquet")
    seen = [positions(batch) for batch in data([f"file://{tmp_path}/*.parquet"]).train_dataloader()]
    assert sorted(seen[0]) == sorted(set(seen[0]) & set(range(COUNTS[0], COUNTS[0] + COUNTS[1])))
    assert len(seen[0]) == 4
    with pytest.raises(ValueError, match=r"there are no images in file://.*/0\.parquet, file://.*/2\.parquet"):
        data([f"file://{tmp_path}/{name}.parquet" for name in "02"])


def test_fewer_images_than_ranks_or_than_a_batch_are_reported(folder: Path) -> None:
    file = [f"file://{folder}/1.parquet"]
    few = CaptionedImages(StreamedShards(file, image_size=16), batch_size=8, loading=Loading(num_workers=0, seed=0))
    few.setup("fit")
    with pytest.raises(ValueError, match=r"batch_size is 8, more than the 7 samples of the training set"):
        list(few.training_batches(0, 0, 2))
    with pytest.raises(ValueError, match=r"7 samples cannot be split over 8 ranks: use at most 7 ranks"):
        list(few.training_batches(0, 0, 8))


def test_an_error_of_the_server_is_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = data(urls(server), loading=Loading(num_workers=0, seed=0))
    monkeypatch.setattr(streamed_shards, "WAITS", (0.0, 0.0))
    loader = iter(streamed.train_dataloader())
    server.failures = 2
    with pytest.warns(UserWarning, match=r"parquet.* reading it again in 0 s"):
        assert len(next(loader)["image"]) == 4


def test_reports_and_joined_sets_leave_streams_out(folder: Path) -> None:
    files = [f"file://{folder}/*.parquet"]
    assert data(files).describe() == []
    with pytest.raises(ValueError, match=r"sets\.0\.images must be CaptionedFolder, .* got StreamedShards"):
        SeveralSets([WeightedSet(StreamedShards(files, image_size=16))]).training()


def test_wrong_urls_are_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"http://127.*/9\.parquet does not exist, or matches no file"):
        StreamedShards([urls(server)[0].replace("0.parquet", "9.parquet")]).training()
    with pytest.raises(OSError, match=r"nothing://x cannot be read: Protocol not known: nothing"):
        StreamedShards(["nothing://x"]).training()
    with pytest.raises(ValueError, match=r"file://.*/shards.* is not a regular file"):
        StreamedShards([f"file://{(tmp_path / 'shards').mkdir() or tmp_path / 'shards'}"]).training()
    (tmp_path / "0.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"file://.*0\.parquet cannot be read as a parquet shard"):
        StreamedShards([f"file://{tmp_path}/0.parquet"]).training()
