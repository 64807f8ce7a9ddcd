"""Objects at URLs: one protocol (`base`), a module for each kind of store, `connect` to find it."""
