"""The table of a field: one row for each method, one column for each setting, and one table for each metric."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from experiments.results import Summary, in_order
from experiments.run_request import Experiment

Places = Mapping[str, tuple[str, str]]
"""Row and column of each experiment, by its title."""


def places(experiments: Sequence[Experiment]) -> Places:
    """Give each experiment its row and column in the table.

    A row is a config, and a column what is varied. Where configs of several folders share names of files, a row is a
    folder, and the file is part of the column: `elr/cifar10` and `elr/cifar10_asymmetric` are two columns of `elr`.

    Returns:
        Nothing where there would be no row with two columns.
    """
    names = list(dict.fromkeys(each.config_name for each in experiments))
    folders, files = (
        list(dict.fromkeys(parts)) for parts in zip(*(n.rpartition("/")[::2] for n in names), strict=True)
    )
    by_folder = len(folders) > 1 and len(files) < len(names)
    found = {}
    for each in experiments:
        folder, _, file = each.config_name.rpartition("/")
        setting = ", ".join(f"{key} {value}" for key, value in each.setting)
        own = [file] if by_folder and len(files) > 1 else []
        found[each.title] = (folder if by_folder else each.label, " ".join([*own, setting]).strip() or "as configured")
    rows = [row for row, _ in found.values()]
    return found if len(set(rows)) < len(rows) else {}


def method_table(summaries: Sequence[Summary], place: Places) -> tuple[list[str], list[list[str]]]:
    """Header and rows, metric by metric: the metric, the method, and mean ± std in each setting.

    The header lacks the first column.
    """
    columns = list(dict.fromkeys(column for _, column in place.values()))
    cells = {(each.metric, *place[each.config]): str(each) for each in summaries}
    rows = list(dict.fromkeys(row for row, _ in place.values()))
    return ["method", *columns], [
        [metric, row, *(cells.get((metric, row, column), "-") for column in columns)]
        for metric in in_order(each.metric for each in summaries)
        for row in rows
        if any((metric, row, column) in cells for column in columns)
    ]


def by_metric(rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, list[list[str]]]]:
    """The rows of each metric, without their first column."""
    for metric, own in groupby(rows, key=lambda row: row[0]):
        yield metric, [list(row[1:]) for row in own]
