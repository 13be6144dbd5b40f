"""Images of a weighted graph: a heat map of its weight matrix, and a drawing of its nodes and edges."""

import networkx as nx
import numpy as np
import torch
from torch import Tensor

PIXELS = 480


def heat(weight: Tensor, largest: Tensor) -> Tensor:
    """Draw a matrix `[d, d]` as an image `[1, 3, d, d]` with values in [0, 1].

    Zero is white. Positive values become red towards `largest`, and negative values become blue towards -`largest`.
    """
    part = (weight / largest).clamp(-1, 1)
    red, blue = part.clamp(min=0), -part.clamp(max=0)
    return (1 - torch.stack([blue, red + blue, red]))[None]


def drawn_graph(estimated: Tensor, true: Tensor) -> Tensor:
    """Draw the edges of an estimated graph over the true edges, as an image `[1, 3, height, width]` in [0, 1].

    Correct edges are black, reversed edges orange, extra edges red, and missing edges grey and dashed.

    Args:
        estimated: estimated edges, `[d, d]`, bool; entry (i, j) is the edge from node i to node j.
        true: edges of the graph that generated the data, in the same format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.8), dpi=PIXELS / 4.8, layout="constrained")
    panel = figure.subplots()
    panel.set_axis_off()
    ours, theirs = estimated.cpu().numpy(), true.cpu().numpy()
    kinds = {
        "black": (ours & theirs, "solid"),
        "tab:orange": (ours & theirs.T & ~theirs, "solid"),
        "tab:red": (ours & ~theirs & ~theirs.T, "solid"),
        "0.6": (theirs & ~ours & ~ours.T, "dashed"),
    }
    graph = nx.DiGraph(ours | theirs)
    place = nx.circular_layout(graph)
    nx.draw_networkx_nodes(graph, place, ax=panel, node_size=120, node_color="white", edgecolors="black")
    nx.draw_networkx_labels(graph, place, ax=panel, font_size=7)
    for colour, (edges, style) in kinds.items():
        listed = [tuple(edge) for edge in np.argwhere(edges).tolist()]
        nx.draw_networkx_edges(
            graph, place, listed, ax=panel, edge_color=colour, style=style, node_size=120, arrowsize=8, width=0.9
        )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return pixels.movedim(2, 0)[None].float() / 255
