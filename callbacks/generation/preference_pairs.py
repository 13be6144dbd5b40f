"""Write the best and the worst image of each prompt, by a score, as a set of pairs for preference tuning."""

import json
import shutil
from pathlib import Path

import pandas as pd

from datamodules.files.whole_files import new_folder, write_text


def write_pairs(folder: Path, table: pd.DataFrame, score: str, output: Path) -> int:
    """Copy the images to `output/preferred` and `output/rejected`, under the same names, and write the captions.

    Args:
        folder: folder of the images.
        table: `file`, `prompt` and scores of each image; see `score_folder`.
        score: column by which images of the same prompt are compared. Prompts whose images all have the same score are
            left out.
        output: new folder.

    Returns:
        The number of pairs.

    Raises:
        ValueError: if no prompt has two images with different scores.
    """
    pairs = []
    for prompt, rows in table.groupby("prompt", sort=False):
        best, worst = rows.loc[rows[score].idxmax()], rows.loc[rows[score].idxmin()]
        if best[score] > worst[score]:
            pairs.append((str(prompt), Path(best["file"]), Path(worst["file"])))
    if not pairs:
        raise ValueError(
            f"--pairs needs a prompt with two images of different {score}: generate with --n of at least 2"
        )
    with new_folder(output) as written:
        lines = []
        for number, (prompt, *files) in enumerate(pairs):
            for part, file in zip(("preferred", "rejected"), files, strict=True):
                target = written / part / f"{number:06}{file.suffix}"
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / file, target)
            lines.append(json.dumps({"file_name": f"{number:06}{files[0].suffix}", "text": prompt}))
        write_text(written / "preferred" / "metadata.jsonl", "\n".join(lines) + "\n")
    return len(pairs)
