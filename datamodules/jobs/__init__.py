"""Resumable long jobs: items are sharded over ranks, results are stored atomically, and failed ranks are detected.

`ResumableMap` computes the items that are missing in a store. `Peers` monitors the other ranks during the job. `stores`
defines the file formats. `cached_array` caches an array under a digest of its inputs.
"""
