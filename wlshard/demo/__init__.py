"""The demo: synthetic brains in, a segmentation network out."""
