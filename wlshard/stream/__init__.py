"""Samples in motion: order, decode, batch, cursor."""
