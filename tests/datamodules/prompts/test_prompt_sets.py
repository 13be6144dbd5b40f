import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.classification.digits import Digits
from datamodules.loading.global_batches import Request
from datamodules.prompts.prompt_sets import ClassPrompts, Prompt, PromptFile, PromptRows

TEXTS = ["a cat, asleep", "two dogs", "Müsli"]


def drawn(index: int) -> int:
    return int(np.random.SeedSequence([index]).generate_state(1)[0])


def test_every_layout_gives_the_texts_with_numbers_and_seeds(tmp_path: Path) -> None:
    plain, lines, table = (tmp_path / f"prompts.{suffix}" for suffix in ("txt", "json", "csv"))
    plain.write_text("\n".join([TEXTS[0], "", *TEXTS[1:]]) + "\n", encoding="utf-8")
    assert PromptFile(str(plain)).prompts() == [Prompt(n, drawn(n), text) for n, text in enumerate(TEXTS)]
    given = [{"caption": text, "seed": 7 + n, "index": 10 * n} for n, text in enumerate(TEXTS)]
    lines.write_text("\n".join(map(json.dumps, given)), encoding="utf-8")
    assert PromptFile(str(lines)).prompts() == [Prompt(10 * n, 7 + n, text) for n, text in enumerate(TEXTS)]
    table.write_text('\ufeff"Prompts",seed\n"a cat, asleep",3\ntwo dogs,\nMüsli,5\n', encoding="utf-8")
    assert PromptFile(str(table), "Prompts").prompts() == [
        Prompt(n, seed, text) for n, (seed, text) in enumerate(zip((3, drawn(1), 5), TEXTS, strict=True))
    ]


def test_classes_take_turns_with_new_seeds() -> None:
    found = ClassPrompts(Digits(), 12, first_seed=100).prompts()
    assert found[:2] == [Prompt(0, 100, "0"), Prompt(1, 101, "1")]
    assert found[11] == Prompt(11, 111, "1")
    batch = PromptRows(found)[Request(torch.tensor([11, 0]), 0, 5)]
    assert batch["caption"] == ["1", "0"]
    assert (batch["seed"].tolist(), batch["index"].tolist(), batch["global_batch_size"]) == ([111, 100], [11, 0], 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no prompt"),
        ('{"text": "a"}', "line 1: expected caption, got text"),
        ('{"caption": "a"}\n{', "line 2 is not JSON"),
        ('{"caption": "a", "seed": "x"}', "line 1: index and seed must be whole numbers"),
        ('{"caption": "a", "seed": -1}', "seed must be at least 0, got -1"),
        ('{"caption": "a", "index": 3}\n{"caption": "b", "index": 3}', "2 prompts with the index 3"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "prompts.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        PromptFile(str(tmp_path / "prompts.jsonl")).prompts()


def test_a_file_that_is_missing_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no prompts at .*none.txt"):
        PromptFile(str(tmp_path / "none.txt")).prompts()
    with pytest.raises(ValueError, match=r"path must end in .txt, .jsonl, .json, .csv, got a.parquet"):
        PromptFile("a.parquet")
    with pytest.raises(ValueError, match="num_prompts must be at least 1, got 0"):
        ClassPrompts(Digits(), 0)
