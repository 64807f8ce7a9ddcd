"""Shard jobs and what runs them: generators and their supervisor."""
