"""jsonargparse still produces the messages that `readable_errors` parses; texts changed by an upgrade are reported."""

import functools
import re
from argparse import ArgumentError

import pytest

from experiments.parsing import readable_errors
from experiments.parsing.readable_errors import readable
from tests.command import ROOT
from tests.conformance.experiments import experiments

WRONG: dict[str, tuple[str, ...]] = {
    "type": ("--model.strength", "abc"),
    "union": ("--trainer.max_epochs", "abc"),
    "argument of a class": ("--model.init_args.strenght", "1"),
    "class of another kind": ("--model", "datamodules.classification.labelled_images.LabelledImages"),
    "class that does not exist": ("--data.images", "datamodules.classification.cifar.Nothing"),
    "no class": ("--data.images", "nothing"),
    "optimizer that does not exist": ("--model.optimizer", "torch.optim.Nothing"),
    "class in a list": ("--trainer.callbacks", "[{class_path: callbacks.nothing.X}]"),
    "denied": ("--model.optimizer", "os.system"),
    "unknown": ("--trainer.max_epoch", "3"),
    "unknown in a mapping": ("--checkpoint", "{monitr: last}"),
    "no alternative": ("--trainer.callbacks", "[3]"),
    "file without its flag": ("a.yaml",),
    "required": (),
}
TEXTS = {
    name: value
    for name, value in vars(readable_errors).items()
    if name.isupper() and isinstance(value, str) and name != "ANOTHER_TYPE"  # it is part of another text
}


@functools.cache
def error(name: str) -> ArgumentError:
    demo = ("--config", str(ROOT / "configs/elr/demo.yaml")) if WRONG[name] else ()
    with pytest.raises(ArgumentError) as raised:
        experiments().config(*demo, *WRONG[name])
    return raised.value


@pytest.mark.parametrize(
    "text",
    [
        *(pytest.param(text, id=name) for name, text in TEXTS.items()),
        *(pytest.param(rf"^[ -]*{text}", id=text) for text in readable_errors.NO_REASONS),
    ],
)
def test_a_text_that_is_read_is_one_that_is_said(text: str) -> None:
    assert any(re.search(text, str(error(name)), re.MULTILINE | re.DOTALL) for name in WRONG)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("type", "noisy_labels.elr.ELR': Expected a float. Got value: abc"),
        ("union", "trainer.max_epochs: Expected a int, got abc"),
        ("argument of a class", "Option 'strenght' is not accepted; did you mean strength? It accepts network,"),
        ("class that does not exist", "there is no class datamodules.classification.cifar.Nothing"),
        ("no class", "there is no class nothing"),
        ("optimizer that does not exist", "there is no class torch.optim.Nothing"),
        ("class in a list", "there is no class callbacks.nothing.X"),
        ("unknown in a mapping", "'checkpoint.monitr'; did you mean checkpoint.monitor?"),
        ("no alternative", "trainer.callbacks: Expected one of list["),
        ("denied", "os.system is rejected: configurations may not name what is in os"),
    ],
)
def test_the_sentence_is_what_it_was(name: str, sentence: str) -> None:
    assert sentence in readable(error(name))
