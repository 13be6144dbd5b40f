"""Generate docs/ and the table of problems in README.md.

python train.py pages                        pages, from docstrings, configurations and docs/claims.csv
python train.py pages --pictures runs/pages  pictures, from the runs whose configurations name one
"""

import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path

from datamodules.files.whole_files import write_text
from experiments.config_files import PROJECT
from experiments.pages import generated, make_pictures, shrink


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="make the pictures from the runs in it")
    parser.add_argument("--demo", type=Path, metavar="FOLDER", help="take README's picture from this comparison")


def run(options: Namespace) -> int:
    try:
        if options.pictures:
            make_pictures(options.pictures)
    except subprocess.CalledProcessError as error:
        raise ValueError(str(error)) from None
    if options.demo:
        shrink(options.demo / "curves.png", PROJECT / "docs/images/demo.png")
    for path, text in generated().items():
        write_text(path, text)
    return 0
