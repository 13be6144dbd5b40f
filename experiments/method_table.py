"""Build one table per metric, with a row per method and a column per setting."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from experiments.results import Summary, in_order
from experiments.run_request import Experiment

MOST_COLUMNS = 8
"""Maximum number of settings that are shown as columns in a terminal."""
Places = Mapping[str, tuple[str, str]]
"""Row and column of each experiment, by the title of the experiment."""


def table_cells(experiments: Sequence[Experiment]) -> Places:
    """Assign a row and a column of the table to each experiment.

    Each row is a config, and each column is a value of the varied key. If two keys vary, each row is a config with a
    value of the first key. If each of several folders has configs of one method, with the same file names, each row is
    a folder, and each column is a file name. For example, `elr/cifar10` and `elr/cifar100` are two columns of
    the row `elr`. A folder that also has a baseline of another method is no row: each of its configs is one.

    Returns:
        The row and column of each experiment. The result is empty if no row would have at least two columns.
    """
    names = list(dict.fromkeys(each.config_name for each in experiments))
    folders, files = (
        list(dict.fromkeys(parts)) for parts in zip(*(n.rpartition("/")[::2] for n in names), strict=True)
    )
    methods = {(each.config_name.rpartition("/")[0], each.method) for each in experiments}
    by_folder = len(methods) == len(folders) > 1 and len(files) * len(folders) == len(names)
    keys = swept_keys(experiments)
    found = {}
    for each in experiments:
        folder, _, file = each.config_name.rpartition("/")
        if len(keys) == 2 and not by_folder:
            values = dict(each.setting)
            found[each.title] = (f"{each.label} {keys[0]} {values[keys[0]]}".strip(), f"{keys[1]} {values[keys[1]]}")
            continue
        setting = ", ".join(f"{key} {value}" for key, value in each.setting)
        own = [file] if by_folder and len(files) > 1 else []
        found[each.title] = (folder if by_folder else each.label, " ".join([*own, setting]).strip() or "as configured")
    rows = [row for row, _ in found.values()]
    return found if len(set(rows)) < len(rows) else {}


def swept_keys(experiments: Sequence[Experiment]) -> list[str]:
    """List the keys that vary, or return an empty list if the experiments do not vary the same keys."""
    keys = {tuple(key for key, _ in each.setting) for each in experiments}
    if len(keys) != 1:
        return []
    settings = [dict(each.setting) for each in experiments]
    return [key for key in keys.pop() if len({own[key] for own in settings}) > 1]


def compared_groups(experiments: Sequence[Experiment], place: Places) -> list[list[str]]:
    """Group the titles of experiments that are compared with each other: those of a column of the table.

    If the table has only one row, its columns are compared. Without a table, all experiments are.
    """
    one_row = len({row for row, _ in place.values()}) < 2
    groups: dict[str, list[str]] = {}
    for each in experiments:
        groups.setdefault("" if one_row else place[each.title][1], []).append(each.title)
    return list(groups.values())


def method_table(
    summaries: Sequence[Summary], place: Places, cell: Callable[[Summary], str] = str
) -> tuple[list[str], list[list[str]]]:
    """Build the header and the rows of a table with the columns metric, method, and mean ± std in each setting.

    If there are many settings and few methods, each setting is a row instead. The header omits the first column
    (metric). `cell` formats a summary.
    """
    columns, first = list(dict.fromkeys(column for _, column in place.values())), "method"
    cells = {(each.metric, *place[each.config]): cell(each) for each in summaries}
    rows = list(dict.fromkeys(row for row, _ in place.values()))
    if len(columns) > max(MOST_COLUMNS, len(rows)):
        cells = {(metric, column, row): text for (metric, row, column), text in cells.items()}
        rows, columns, first = columns, rows, "setting"
    return [first, *columns], [
        [metric, row, *(cells.get((metric, row, column), "-") for column in columns)]
        for metric in in_order(each.metric for each in summaries)
        for row in rows
        if any((metric, row, column) in cells for column in columns)
    ]


def by_metric(rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each metric, and the rows of this metric without the first column."""
    for metric, own in groupby(rows, key=lambda row: row[0]):
        yield metric, [list(row[1:]) for row in own]
