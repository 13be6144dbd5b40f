from pathlib import Path
from typing import Any

import pytest

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading.global_batches import GlobalBatches
from datamodules.loading.node_shards import NodeShards
from tests.datamodules.loading.test_node_shards import LABEL
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("GlobalBatches world_size 1", lambda _: GlobalBatches(num_samples=50, batch_size=3, world_size=4), ValueError,
     r"batch_size 3 \(over all ranks\) is below the number of ranks, 4"),
    ("GlobalBatches shuffle", lambda _: GlobalBatches(num_samples=5, batch_size=8, shuffle=True), ValueError,
     "batch_size is 8, more than the 5 samples"),
    ("LabelledImages batch_size 4",
     lambda _: LabelledImages(Digits(), shards=NodeShards(nodes=4, alpha=1.0, batches_per_epoch=3), batch_size=21),
     ValueError, "batch_size must be a multiple of shards.nodes, 4, got 21"),
    ("LabelledImages batches_per_epoch",
     lambda _: LabelledImages(Digits(), shards=NodeShards(nodes=4, alpha=1.0, batches_per_epoch=3), batch_size=20,
     batches_per_epoch=3), ValueError, "batches_per_epoch, repeats and loading.passes_per_epoch must not be set"),
    ("NodeShards", lambda _: NodeShards(200, 1.0, 1).draw(LABEL, 10, 0), ValueError,
     r"shards.nodes 200 and alpha 1.0 leave node \d+ none of the 600 samples"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
