"""Show what the network will see: samples of training and validation data, their classes and their noise.

    python train.py show configs/elr/demo.yaml
    python train.py show configs/elr/cifar10.yaml --output FOLDER -- --data.label_noise.noise_rate 0.6

Only the data are built, not the model. Training samples are shown as they are augmented in the first epoch. If the
method is not trained, its test data are shown. The command writes samples.png and
samples.html to the folder --output. The HTML file contains the picture, and tables of the keys of a batch (shape, type,
range), of the number of samples of each class, and of the measured noise beside the noise that the configuration
states. It can be opened in any browser, without a network. For files of images with captions, the command also reports
the number of images of each size, enlarged and cropped images, equal files, and empty or cut captions.

Ranges and noise are measured on the first batches of each split, which contain at least 1,000 samples (fewer if samples
are large). Arguments after `--` override settings of the configuration. In Python, `callbacks.data_preview.plot` draws
a sample or a batch of any dataset.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from experiments.arguments import positive_number


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", type=Path, help="YAML file of an experiment")
    parser.add_argument("--output", type=Path, help="default: runs/show/<folder>/<config>")
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=("training", "validation", "test", "prediction"),
        help="default: training and validation, or test if the method is not trained",
    )
    parser.add_argument("--samples", type=positive_number, default=8, help="samples drawn of each split; default: 8")
    parser.takes_overrides = True  # type: ignore[attr-defined]


def run(options: Namespace) -> int:
    from argparse import ArgumentError

    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import LightningModule

    from callbacks.data_preview import record_splits
    from callbacks.data_preview.report import write_report
    from datamodules.files.whole_files import owned_folder
    from experiments.calls.build import build_data
    from experiments.calls.parse import parse
    from experiments.config_files import dump_yaml
    from experiments.parsing.class_paths import import_class_paths
    from experiments.parsing.readable_errors import readable
    from lightning_modules.interfaces import DescribedData, DescribesCaptions

    try:
        parsed = parse(["fit", "--config", str(options.config), *options.overrides])
        data = build_data(parsed)
        kind = import_class_paths(parsed.settings.model.class_path)
        trains = kind.training_step is not LightningModule.training_step
        splits = options.splits or (["training", "validation"] if trains else ["test"])
        precision = parsed.settings.trainer.precision
        more = {"precision": precision} if str(precision).startswith("64") else {}
        recorded = record_splits(data, splits, **more)
        described = data.describe() if "training" in splits and isinstance(data, DescribedData) else []
        if described and isinstance(kind, DescribesCaptions):
            described += kind.describe_captions(data, parsed.settings.model.as_dict().get("init_args") or {})
    except (ArgumentError, ValueError, TypeError, ImportError, MisconfigurationException) as error:
        raise ValueError(readable(error)) from error
    folder = options.output or Path("runs/show", options.config.resolve().parent.name, options.config.stem)
    settings = dump_yaml(parsed.settings.data.as_dict())
    with owned_folder(folder):
        facts = write_report(recorded, data, str(options.config), settings, folder, options.samples, described)
    for split, name, value in facts:
        print(f"{split}: {name}: {value}")
    print(f"written: {folder / 'samples.png'} and {folder / 'samples.html'}")
    return 0
