"""Batches of tokenized texts: equal lengths, distribution without repetition, and rejections of tokenizers."""

from pathlib import Path

import pytest
import torch

from datamodules.text.glue import Glue
from datamodules.text.labelled_texts import LabelledTexts
from datamodules.text.text_set import Texts
from tests.tiny_texts import WORDS, save_rte, save_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    save_tokenizer(folder / "tokenizer")
    save_rte(folder / "glue")
    return folder


def data(folder: Path, max_length: int = 16, prefixed: bool = False) -> LabelledTexts:
    texts = Glue("rte", str(folder / "glue"), prefixed)
    return LabelledTexts(texts, str(folder / "tokenizer"), max_length, batch_size=4)


def test_batches_are_tokens_of_one_length_with_their_labels_and_places(folder: Path) -> None:
    labelled = data(folder)
    labelled.setup("fit")
    labelled.setup("test")
    assert (labelled.num_train_samples, labelled.num_classes) == (11, 2)
    batches = list(labelled.train_dataloader())
    assert torch.cat([batch["index"] for batch in batches]).sort().values.tolist() == list(range(11))
    assert {batch["text"]["input_ids"].shape[1] for batch in batches} == {16}
    batch = next(iter(labelled.test_dataloader()))
    assert (batch["global_batch_size"], batch["label"].tolist()) == (4, [0, 1, 1, 0])
    tokens, kinds = batch["text"]["input_ids"][0].tolist(), batch["text"]["token_type_ids"][0].tolist()
    read = [WORDS[token] for token in tokens]
    assert read == ["[CLS]", "a", "cat", "sat", "on", "the", "mat", "[SEP]", "a", "cat", "sat", "[SEP]"] + 4 * ["[PAD]"]
    assert kinds == 8 * [0] + 4 * [1] + 4 * [0]
    assert batch["text"]["attention_mask"][0].tolist() == 12 * [1] + 4 * [0]


def test_long_texts_are_cut_and_single_ones_stand_alone(folder: Path) -> None:
    labelled = data(folder, max_length=7, prefixed=True)
    labelled.setup("test")
    tokens = next(iter(labelled.test_dataloader()))["text"]["input_ids"]
    assert [WORDS[token] for token in tokens[0]] == ["[CLS]", "rte", "sentence1", ":", "a", "cat", "[SEP]"]


def test_what_does_not_fit_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"max_length must be at most 64 for the tokenizer .*, got 65"):
        data(folder, max_length=65).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"tokenizer: found none at .*glue; expected a folder with tokenizer"):
        LabelledTexts(Glue("rte", str(folder / "glue")), str(folder / "glue")).setup("fit")
    with pytest.raises(ValueError, match=r"as many texts as labels, and at least one, got \[2, 1\]"):
        Texts(["a", "b"], None, torch.zeros(1))
