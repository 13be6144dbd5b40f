"""The one engine for work of hours: items, shards over ranks, settings written once, atomic stores, peers that fail.

`ResumableMap` computes the items that a store lacks, `Peers` are the ranks meanwhile, `stores` are the formats, and
`cached_array` keeps an array under the identity of what it is made from.
"""
