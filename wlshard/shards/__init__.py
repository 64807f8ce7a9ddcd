"""Samples in shards: shard lists, reading, writing, rolling."""
