"""Members of a tar: a strict streaming reader, a reproducible writer, the index."""
