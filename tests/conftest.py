"""One thread: sums are then taken in one order, and the suite leaves the other core to the processes that it starts."""

import torch

torch.set_num_threads(1)
