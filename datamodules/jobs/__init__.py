"""Long resumable jobs: items sharded over ranks, settings written once, atomic stores, and detection of failed ranks.

`ResumableMap` computes the items that a store lacks, `Peers` monitors the other ranks during the job, `stores` defines
the file formats, and `cached_array` caches an array under a digest of its inputs.
"""
