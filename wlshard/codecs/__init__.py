"""Fields: bytes to value and back, by extension."""
