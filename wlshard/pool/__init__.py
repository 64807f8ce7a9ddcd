"""Generations: seal, manifest, rotate, status."""
