"""Baselines: one file each, with one constant `BASELINE`, an `Objective` or a `Calibrator`; the file name is its name.

A file whose name begins with an underscore is not a baseline.
"""
