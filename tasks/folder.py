"""Data of your own on this machine: `task=folder data=PATH`, class folders of images or tables of texts or numbers."""

from calib_bench.tasks._nearest import own_data

TASK = own_data("Your own data, data=PATH: class folders, CSV, parquet, JSON lines, Arrow", "That of your data.")
