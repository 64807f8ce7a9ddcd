"""Worker processes, and batches in memory that they share with their parent."""
