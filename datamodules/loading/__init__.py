"""DataLoaders whose sampling order depends only on (seed, epoch), with augmentation on the device."""
