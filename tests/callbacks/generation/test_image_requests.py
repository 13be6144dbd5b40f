"""Prompts given as files and as texts, and the seed of each image."""

from pathlib import Path

import pytest

from callbacks.generation.image_requests import image_requests, in_blocks, read_prompts
from callbacks.generation.launched import fabric_of


def test_texts_get_seeds_in_order() -> None:
    requests = image_requests(read_prompts(["a fox", "a hen"], 2), None, 2, None)
    assert [(each.name, each.prompt, each.seed) for each in requests] == [
        ("000000", "a fox", 0), ("000001", "a fox", 1), ("000002", "a hen", 2), ("000003", "a hen", 3),
    ]  # fmt: skip
    assert [each.seed for each in image_requests(read_prompts(["a"], 3), None, 3, 40)] == [40, 41, 42]


def test_a_file_may_say_the_seeds(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("caption,seed,index\na fox,50,4\na hen,9,2\n")
    requests = image_requests(read_prompts([str(path)], 2), None, 2, None)
    assert [(each.seed, each.prompt_index) for each in requests] == [(50, 4), (51, 4), (9, 2), (10, 2)]
    assert [each.seed for each in image_requests(read_prompts([str(path)], 2), None, 2, 1)] == [1, 2, 3, 4]


def test_classes_and_plain_images() -> None:
    assert [(each.label, each.seed) for each in image_requests(None, [3, 1], 2, 5)] == [(3, 5), (3, 6), (1, 7), (1, 8)]
    assert [(each.label, each.prompt, each.seed) for each in image_requests(None, None, 2, None)] == [
        (None, None, 0), (None, None, 1),
    ]  # fmt: skip
    assert [len(block) for block in in_blocks(image_requests(None, None, 5, None), 2)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "\n  \n", "empty.txt has no prompt"),
        ("bytes.txt", b"\xff\xfe\xfa", "is not in UTF-8"),
        ("lines.jsonl", "{", "is not JSON"),
        ("lines.jsonl", '{"caption": "\\ud800"}', "half of a character"),
        ("lines.jsonl", '{"text": "a"}', "expected caption, got text"),
        ("seeds.csv", "caption,seed\na,-1\n", "seed must be at least 0"),
        ("seeds.csv", f"caption,seed\na,{2**63 - 1}\n", "seed must be in"),
        ("prompts.yaml", "a", "path must end in .txt"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        image_requests(read_prompts([str(path)], 2), None, 2, None)


def test_more_images_than_memory_holds_and_more_processes_than_cores_are_rejected() -> None:
    with pytest.raises(ValueError, match="--n 1000000000: 2000000000 images are requested"):
        image_requests(None, [0, 1], 10**9, None)
    with pytest.raises(ValueError, match=r"devices must be in .*, got 1000000"):
        fabric_of("cpu", 10**6)
