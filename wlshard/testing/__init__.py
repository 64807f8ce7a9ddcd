"""Oracles for tests, ours and users'."""
