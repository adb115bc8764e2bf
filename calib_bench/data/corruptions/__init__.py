"""Corruptions of test inputs: one file each, with one constant `CORRUPTION`. The file's name is the corruption's."""
