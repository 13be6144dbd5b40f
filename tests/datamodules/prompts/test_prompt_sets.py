import json
from pathlib import Path

import numpy as np
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
