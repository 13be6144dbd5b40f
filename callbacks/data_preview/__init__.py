"""Draw the batches that a network will see, before it is trained.

    from callbacks.data_preview import plot

    plot(dataset[0])                                  # a sample of any dataset: a dict, or a pair (image, label)
    plot(next(iter(data.train_dataloader())))         # the first samples of a batch; `data` is a DataModule

The command `train.py show` draws the same figures from a configuration, with the statistics of the noise.
"""

from callbacks.data_preview.plot import plot as plot
from callbacks.data_preview.recorder import record_splits as record_splits
