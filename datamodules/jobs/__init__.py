"""Long jobs that can be resumed: items are sharded over ranks, stores are atomic, and failed ranks are detected.

`ResumableMap` computes the items that a store lacks. `Peers` monitors the other ranks during the job. `stores` defines
the file formats. `cached_array` caches an array under a digest of its inputs.
"""
