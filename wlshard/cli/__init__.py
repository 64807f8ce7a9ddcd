"""Commands: one file each, parse, one library call, render."""
