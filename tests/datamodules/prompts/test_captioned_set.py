from datamodules.classification.digits import Digits
from datamodules.prompts.captioned_set import CaptionedClasses


def test_classes_without_names_have_numbers() -> None:
    captioned = CaptionedClasses(Digits(train_size=3)).training()
    assert captioned.captions == [str(label) for label in captioned.source.label.tolist()]
