import torch

from lightning_modules.probabilistic.colide.pictures import drawn_graph, heat


def test_signs_have_colours_and_zero_is_white() -> None:
    picture = heat(torch.tensor([[2.0, -1.0], [0.0, 9.0]]), torch.tensor(2.0))
    assert picture[0, :, 0, 0].tolist() == [1, 0, 0]
    assert picture[0, :, 0, 1].tolist() == [0.5, 0.5, 1]
    assert picture[0, :, 1, 0].tolist() == [1, 1, 1]
    assert picture[0, :, 1, 1].tolist() == [1, 0, 0]


def test_wrong_edges_are_coloured() -> None:
    true = torch.zeros(5, 5, dtype=torch.bool)
    true[0, 1] = true[1, 2] = True
    turned, more = true.clone(), true.clone()
    turned[0, 1], turned[1, 0], more[3, 4] = False, True, True
    right, orange, red = (drawn_graph(graph, true) for graph in (true, turned, more))
    assert right.shape[:2] == (1, 3)

    def colourful(picture: torch.Tensor) -> int:
        return int(((picture.amax(dim=1) - picture.amin(dim=1)) > 0.3).sum())

    assert colourful(right) == 0
    assert colourful(orange) > 50
    assert colourful(red) > 50
