import torch

from lightning_modules.metrics.measured_items import MeasuredItems


def test_rows_are_in_the_order_of_sets_and_items_and_each_set_has_its_means() -> None:
    items = MeasuredItems()
    items.add({"psnr": torch.tensor([3.0, 1.0])}, torch.tensor([1, 0]), ["b", "a"])
    items.add({"psnr": torch.tensor([8.0])}, torch.tensor([0]), ["c"], loader=1)
    items.add({"psnr": torch.tensor([3.0])}, torch.tensor([1]), ["b"])  # a different process had it, too
    assert items.means(["one", "other"]) == {"one": {"psnr": 2.0}, "other": {"psnr": 8.0}}
    assert [(row["set"], row["index"], row["name"]) for row in items.table] == [
        ("one", 0, "a"),
        ("one", 1, "b"),
        ("other", 0, "c"),
    ]
    assert items.means() == {}
    assert items.table == []
