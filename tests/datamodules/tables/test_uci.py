from pathlib import Path

from datamodules.tables.uci import UCI

ROWS = "".join(f" {i}\t{i * i}  5 {i % 3} \n" for i in range(20))


def written(folder: Path, data: str = ROWS, features: str = "0\n1\n", target: str = "3\n") -> UCI:
    (folder / "uci" / "numbers").mkdir(parents=True)
    for name, text in (("data", data), ("index_features", features), ("index_target", target)):
        (folder / "uci" / "numbers" / f"{name}.txt").write_text(text)
    return UCI("numbers", str(folder))


def test_columns_are_those_that_the_index_files_name(tmp_path: Path) -> None:
    table = written(tmp_path)
    features, target = table.read()
    assert features.to_numpy()[4].tolist() == [4, 16]
    assert target[4] == 1
    assert table.row_shapes == {"features": (2,), "target": ()}
    assert len(table.training()) == 16
