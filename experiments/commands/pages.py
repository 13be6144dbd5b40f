"""Generate the pages in docs/ and the table of problems in README.md.

python train.py pages                        write pages, from docstrings, configurations and docs/claims.csv
python train.py pages --pictures runs/pages  write the pictures that configurations name, from their runs
                              --only elr     write only the picture with this name
"""

import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path

from datamodules.files.whole_files import owned_path, write_text
from experiments.config_files import PROJECT
from experiments.pages import generate_pages, make_pictures
from experiments.pictures import shrink


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="make pictures from the runs in this folder")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="pictures to make; default: all pictures")
    parser.add_argument("--demo", type=Path, metavar="FOLDER", help="comparison from which README's picture is taken")


def run(options: Namespace) -> int:
    with owned_path(PROJECT / "docs", remedy="stop it"):
        try:
            if options.pictures:
                make_pictures(options.pictures, options.only)
        except subprocess.CalledProcessError as error:
            raise ValueError(str(error)) from None
        if options.demo:
            shrink(options.demo / "curves.png", PROJECT / "docs/images/demo.png")
        for path, text in generate_pages().items():
            write_text(path, text)
    return 0
