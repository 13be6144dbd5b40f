"""Split a folder of recordings into training, validation and test sets."""

from collections.abc import Sequence

from datamodules.speech.recordings import Split


def of_split(names: Sequence[str], split: Split, held_out: float, what: str) -> list[str]:
    """Select the recordings of a split, sorted by name.

    All recordings of a subfolder, for example of one speaker, are in the same split.

    Args:
        names: sorted paths of the recordings, relative to the folder.
        split: split to select.
        held_out: fraction of the subfolders, and of recordings outside subfolders, that is held out for validation. The
            same fraction is held out for testing. Subfolders and recordings whose names come last are held out. If it
            is 0, every split contains all recordings.
        what: name of the argument that sets the folder, for error messages.
    """
    if held_out == 0:
        return list(names)
    groups = list(dict.fromkeys(name.split("/")[0] for name in names))
    held = max(round(held_out * len(groups)), 1)
    ends = {"training": (0, -2 * held), "validation": (-2 * held, -held), "test": (-held, None)}[split]
    if len(groups) < 2 * held + 1:
        kind = "recordings" if len(groups) == len(names) else "recordings and subfolders"
        raise ValueError(f"{what} has {len(groups)} {kind}: training, validation and test need one each")
    chosen = set(groups[slice(*ends)])
    return [name for name in names if name.split("/")[0] in chosen]
