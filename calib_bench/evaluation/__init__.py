"""Other people's predictions: from a file, or what a notebook holds, to tables with intervals.

1. A file becomes arrays by name. `formats` tells files apart; `archives` reads npz, npy and safetensors, `hdf5` groups,
   `dialects` every way of writing a table, `text_tables` its columns; `splits` takes one of two splits, `slices` the
   column of slices, `confidence` a confidence alone; `refusals` says what is wrong, here and later. What is in memory
   comes in through `arrays` (one model or several) and `frames` (arrays and data frames). `writers` is the way back.
2. Names give each array a role: predictions, labels, a class's column, a name of the row, or none. `vocabulary` holds
   the names, `class_names` reads a class from one, `labels` finds and reads labels, `named_arrays` takes whole arrays,
   `class_columns` and `free_columns` the columns of classes. What comes out is `formats.Content`.
3. `validation` checks the numbers and makes `Predictions`; `resolution` and `censored` deal with rounded probabilities.
   `predictions` does all this for a word of the command line.
4. `matching` brings shards, classes, rows and seeds of several files together; `models` pairs test with calibration.
5. `scored` measures one method; `evaluate`, `by_slice`, `compare` and, over many experiments, `benchmark` use it;
   `findings` puts what was measured into words.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
