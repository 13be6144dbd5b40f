"""jsonargparse still says what `readable_errors` reads of its messages: each text that an upgrade changes is named."""

import re
from argparse import ArgumentError

import pytest

from tests.command import ROOT
from tests.conformance.experiments import experiments

DEMO = ("--config", str(ROOT / "configs/elr/demo.yaml"))
SAID: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "type": (
        (*DEMO, "--model.strength", "abc"),
        (r'^ *Parser key "[^"]+":', r"Expected a <class 'float'>", r"Given value: "),
    ),
    "union": (
        (*DEMO, "--trainer.max_epochs", "abc"),
        (r"Does not validate against any", r"Subtypes:", r"Errors:", r"<class 'NoneType'>", r"Given value: abc"),
    ),
    "argument of a class": (
        (*DEMO, "--model.init_args.strenght", "1"),
        (r"class_path '([\w.]+)'", r"Option 'strenght' is not accepted"),
    ),
    "class of another kind": (
        (*DEMO, "--model", "datamodules.classification.labelled_images.LabelledImages"),
        (r"Import path .*does not correspond to a subclass of",),
    ),
    "class that does not exist": (
        (*DEMO, "--data.images", "datamodules.classification.cifar.Nothing"),
        (r"has no attribute 'Nothing'",),
    ),
    "denied": (
        (*DEMO, "--model.optimizer", "os.system"),
        (r"Importing 'os\.system' is not allowed, denied by the 'os' entry .* to allow it\.",),
    ),
    "unknown": ((*DEMO, "--trainer.max_epoch", "3"), (r"unrecognized arguments: --trainer\.max_epoch",)),
    "file without its flag": ((*DEMO, "a.yaml"), (r"unrecognized arguments: a\.yaml",)),
    "required": ((), (r"^the following arguments are required: \w+\.(data|model)\b",)),
}


@pytest.mark.parametrize(("arguments", "patterns"), SAID.values(), ids=SAID)
def test_a_message_has_the_texts_that_are_read(arguments: tuple[str, ...], patterns: tuple[str, ...]) -> None:
    with pytest.raises(ArgumentError) as raised:
        experiments().config(*arguments)
    missing = [pattern for pattern in patterns if not re.search(pattern, str(raised.value), re.MULTILINE)]
    assert not missing, str(raised.value)
