"""Why predictions are refused, in one list: `raise Refusal.NO_LABELS.of("a.npz", names=...)`."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from calib_bench.errors import DataError

SAVE = "numpy.savez('predictions.npz', logits=logits, labels=labels)"
TRUSTED = "where you trust whoever made it, two lines of Python make plain arrays of it:"
PICKLES = {
    ".pt": "torch", ".pth": "torch", ".ckpt": "torch", ".bin": "torch", ".pkl": "pickle", ".pickle": "pickle",
    ".p": "pickle", ".joblib": "joblib", ".npy": "numpy", ".npz": "numpy",
}  # fmt: skip
"""Ends of names of files that may hold pickled objects, and what reads them."""
READS = {
    "torch": "torch.load({path!r}, map_location='cpu', weights_only=True)",
    "pickle": "pickle.load(open({path!r}, 'rb'))",
    "joblib": "joblib.load({path!r})",
    "numpy": "numpy.load({path!r}, allow_pickle=True)",
}
SAVES = {
    ".npy": "numpy.save({plain!r}, numpy.array(held.tolist()))",
    ".npz": "numpy.savez({plain!r}, **{{name: numpy.array(held[name].tolist()) for name in held}})",
}
"""What saves the arrays again, as they were; other files are taken to hold a dictionary."""
SAVES_NAMES = "numpy.savez({plain!r}, logits=held['logits'], labels=held['labels'])"
SAVES_PAIRS = (
    "or, where it holds two pairs, ((logits, labels), (logits, labels)),\n"
    "  (Z, y), (W, t) = held; numpy.savez({plain!r}, logits_val=Z, labels_val=y, logits_test=W, labels_test=t)"
)
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError,
    tokenize.TokenError, SyntaxError, TypeError, MemoryError, OverflowError, RuntimeError,
)  # fmt: skip
"""What numpy and zipfile raise for files that are truncated, foreign, encrypted or mangled."""


class Refusal(StrEnum):
    """Texts of errors after the file or model that they are of; `of` fills what is in braces."""

    # files
    FOLDER = "it is a folder, not a file"
    MISSING = "it does not exist"
    EMPTY = "it is empty"
    PICKLED = "{part} holds pickled objects, which could run code and are never read: {lines}"
    UNREADABLE = "it cannot be read as {suffix}: it is truncated, damaged or foreign ({error})"
    NO_ARCHIVE = "it holds one array, not an archive of them: save it with " + SAVE
    ARCHIVE = "it is an archive, not a single array: rename it to .npz"
    NO_FILE = "give a file of predictions or a stored trial, runs/<study>:<key>"
    NO_FORMAT = (
        "it {why}: predictions are read from .npz, .npy:.npy, .csv, .tsv, .jsonl (also .gz, .bz2, .xz, .zst, .zip), "
        ".parquet, .arrow, .feather, .safetensors and .h5:group; from Python, " + SAVE + " makes one"
    )
    PICKLE = "it may hold pickled code, which is never run here: {lines}"
    NO_SPLIT = (
        "its arrays are of the split {word!r} and none of the {role} split: say which they are by plain names, logits "
        "and labels, or give logits_{names} and labels_{names}"
    )
    NO_GROUPS = (
        "no group of it holds predictions and labels: it holds {names}; expected dataset/model/ with probas_cal, "
        "labels_cal, probas_test, labels_test"
    )
    SEVERAL_GROUPS = "it holds {number} predictions ({names}...): name one, file.h5:{first}"
    NO_SUCH_GROUP = "no group {group!r} holds predictions: {hint}"
    NO_PAIR = "it is not a pair of .npy files: a {suffix} file holds its own labels"
    NO_NPY_LABELS = "a .npy file holds one array: give the labels too, as {path}:labels.npy"
    NO_NPY_KIND = (
        "its name does not say what the numbers are: give --kind logits, probabilities, log_probabilities or scores, "
        "or call the file for example test_logits.npy"
    )
    NO_LOGITS = "the trial {status} and left no logits: choose another trial"
    SAME_SEED = "it names trials of the same seed: give the seeds of one arm"

    # tables
    ENCODING = "it begins as {encoding} text and is none: {error}; save it as UTF-8"
    HEADER_ENCODING = "its header is not UTF-8 text: save the file as UTF-8"
    FEATHER_1 = "it is a Feather file of version 1: write it again with a current pandas or pyarrow"
    NO_JSON_LINES = (
        "it is not one JSON object a line, as {{'logits': [1, -1], 'label': 0}}, or {{'p': 0.8, 'y': 1}}, p the "
        "probability of class 1: {error}, counted from 0"
    )
    NO_JSON_COLUMNS = (
        "it holds neither objects, {{'logits': [1, -1], 'label': 0}}, nor an object of lists, {{'logits': [...], "
        "'label': [...]}}"
    )
    LENGTHS = "its lists differ in length ({lengths})"
    RAGGED = (
        "it cannot be read as {suffix}: the header, separated by {delimiter}, names {names}, and line {line} has "
        "{number}: {row}{hint}"
    )
    THOUSANDS = (
        "the commas in column {name!r} could be decimal marks or separate thousands: write its numbers with points"
    )
    ONE_COLUMN = "it has one column, {name!r}: separate columns by commas, semicolons or tabs, every row alike"
    NO_HEADER = "it has no header: its first row, {names}..., is numbers; name the columns: logit_0,logit_1,...,label"

    # names
    REPEATED = "more than one {what} called {name!r}: rename or remove one"
    NO_LABELS = "it holds no labels: it holds {names}; {advice}"
    NO_SUCH_LABELS = "it holds no {label!r}, which --labels names: {hint}"
    LABELS_TWICE = (
        "it holds labels twice, and those in {one!r} and {other!r} differ: say which with --labels NAME, or remove one"
    )
    LABEL_FRACTIONS = "{name!r} is a name of labels and holds fractions: rename it, if it is a class"
    CONFIDENCE = (
        "it holds {name!r} and of no class its probability: log loss and calibrators need those of all classes, "
        "prob_0, prob_1...; if it is that of class 1 of two, call it probability; and beside a column correct, whether "
        "the answer was right, it suffices for what a confidence alone can tell"
    )
    NOT_CORRECT = "{name!r} says whether answers were right, and must hold 1 and 0, or true and false"
    CONFIDENCE_MIXED = (
        "{one} holds confidences in one answer, and {other} predictions of classes: give both sets in one form"
    )
    CONFIDENCE_PAIRED = (
        "it holds confidences alone, and whether two predictors' answers were right says nothing of the same labels: "
        "compare needs the predictions of all classes"
    )
    NO_COLUMNS = "it has no columns beside its predictions, and --groups names one: {groups}"
    NO_SUCH_GROUPS = "it holds no {groups!r}, which --groups names: {hint}"
    GROUPS_ARE_LABELS = (
        "{name!r} holds the labels: among examples of one label no model is calibrated; name a column of something else"
    )
    GROUPS_ARE_PREDICTIONS = "{name!r} holds predictions: name a column of something else with --groups"
    GROUPS_COUNT = "{number} values of groups for {N} rows of predictions"
    GROUP_KEYS = "predictions are of {names}, groups of {others}"
    GROUPS_SHAPE = "{name!r} must hold one value a row to be slices, not {what}"
    GROUPS_MANY = (
        "{name!r} has {number:,} different values, and slices can be {most} at most: put values together first, as "
        "under 30, 30 to 50"
    )
    GROUPS_SMALL = "no slice of {column!r} has {least} examples: nothing can be measured by it"
    GROUPS_ONE = "{name!r} has one value, {value}, in all rows: nothing is to be compared"
    NO_CLASS_OF_LABEL = "the label {label!r} is the name of no class ({classes}): {hint}"
    NO_FIRST = (
        "the columns are {classes}, in this order, and labels are numbers, of which 1 usually means {first!r}: give "
        "labels by name, or call the columns by the labels' numbers, prob_0, prob_1"
    )
    NAMES_OR_POSITIONS = (
        "its classes are called {classes}, in this order, and labels are numbers, which may be such names or positions "
        "in this list: give labels as text if they are names, and leave the list out if they are positions"
    )
    CLASS_COUNT = "it names {number} classes, and its predictions have {K}: one name a class"
    NO_PREDICTION = (
        "no predictions by a name that says what they are (it holds {names}); {hint}, or, for a single array of "
        "another name, say what it is with --kind"
    )
    SEVERAL_PREDICTIONS = "more than one array could be the predictions ({names}): keep one, or say --kind"
    SEVERAL_OF_KIND = (
        "more than one array could be the {kind} that --kind says ({names}): call one {kind}, or remove the others"
    )
    NO_NUMBERS = (
        "{name!r}, the {kind}, {problem}, and must hold numbers: a list of one length a row, as parquet keeps it, or a "
        "column a class, {name}_0, {name}_1..."
    )
    RAW_BYTES = "{name!r} holds raw bytes, two a number, as numpy saves bfloat16: save it as float32"

    # columns of classes
    SAME_CLASS = "columns {one!r} and {other!r} are the same class: remove one"
    SEVERAL_SERIES = "the classes may be the columns like {names}: keep those of the classes"
    DOUBTFUL = (
        "column {name!r} {problem}: if it is no class, remove it; if it is one, name the class columns logit_0, "
        "logit_1..."
    )
    SCORE_OR_COLUMNS = "the {kind} may be {score!r} alone or the columns like {column!r}: remove what is no prediction"
    UNKNOWN_COLUMNS = (
        "what its columns {names} are cannot be told: name them logit_0, logit_1... or probability_0..., or say --kind "
        "logits (or probabilities)"
    )
    TWO_FORMS = "it has a column {one!r} beside {other!r}: keep one form"
    OTHER_CLASSES = "the classes are {classes} in some columns and {others} in others"
    OTHER_ORDER = (
        "the classes are {classes} in some columns and {others}, in another order, in others, and labels are numbers, "
        "which may follow either: give labels by name, or one order"
    )
    NUMBERS_AND_NAMES = "some class columns have numbers and some names ({one!r}, {other!r}): remove what is no class"
    GAP = "class {missing} has no column beside {name!r}: {K} classes are numbered 0 to {last}"
    ONE_CLASS = "{name!r} is the only class column: give one a class, or, for two classes, that of class 1"
    NO_CLASS_NUMBERS = "column {name!r} {problem}, and the column of a class holds one number a row"
    MIXED_COLUMNS = (
        "column {strange!r} stands beside {telling!r}, and its name does not say which class it is: remove it, or name "
        "it as the others"
    )
    CLASS_0 = "the only column, {name!r}, is that of class 0: give that of class 1"
    NO_COLUMN_OF_LABEL = (
        "the columns are {first!r} to {last!r}, and none is that of label {label:g}: rename them, or give .to_numpy() "
        "if labels are positions"
    )

    # in memory
    NO_ARRAY = "None is given where an array is expected"
    NO_PLACES = (
        "each row names its classes ({classes}), in no order, and nothing says which number is which class: give "
        "labels, and all other predictions, by the same names, or call the classes by their numbers, 0, 1..."
    )
    TOP_ALONE = (
        "label and score are of each row's most probable class alone: ask for all classes, pipeline(texts, top_k=None)"
    )
    META = "a tensor on the meta device holds no numbers: compute it on another"
    NOT_AN_ARRAY = "{type} cannot be read as an array of numbers: {error}"
    OBJECTS = "some entries are missing, or of different kinds: expected numbers only"
    MASKED = "some numbers are masked, the first in row {row}: leave such rows out"
    LABELS_MISSING = "labels are missing: {hint}"
    ONE_COUNTS = (
        "predictions and labels have the same index in different orders, and one of them only counts rows: give "
        "labels.sort_index() if it names rows, labels.to_numpy() if their order is the predictions'"
    )
    OTHER_INDEX = "the indices of predictions and labels differ ({what}): take the same rows of both"
    CALIBRATION_PAIR = "give a pair (values, labels), or a data frame where the test set is one with labels"
    OTHER_KEYS = "the models of the test set are {names}, those of the calibration set {others}"
    LABEL_KEYS = "predictions are of {names}, labels of {others}"
    NO_PREDICTIONS = "predictions are missing: give an array [N, K]"
    NO_MODELS = "there are no predictions: the list is empty"
    BATCHES = (
        "there are as many labels ({labels}) as rows in all {models} arrays together: if these are batches of one "
        "model, join them, numpy.concatenate(values)"
    )
    MODELS_OR_BATCHES = (
        "{S} arrays whose labels differ are {S} models with examples of their own, or batches of one model: give the "
        "first as a mapping, {{'seed 0': array, ...}}, for both; join the second, numpy.concatenate(values)"
    )

    # numbers
    NOT_NUMBERS = "{kind} must be numbers, not {dtype}"
    SHAPE = "{kind} have shape {shape}{empty}; expected [N, K], or [N] where there are 2 classes"
    SCORES_SHAPE = "scores are one number a row, the margin for class 1, not shape {shape}: call them logits?"
    LABELS_TYPE = "labels must be integers 0 to {last}, not {what}"
    NO_INTEGERS = "{number} labels are not integers, the first is row {row}: {value}"
    OUTSIDE = (
        "{number} labels are outside 0 to {last}, the classes of the predictions; the first is row {row}: "
        "{value:g}{hint}"
    )
    LABELS_SHAPE = "labels have shape {shape}; expected [{N}], an integer a row{hint}"
    LABELS_COUNT = "{number} labels for {N} rows of predictions{hint}"
    INFINITE = (
        "{number} of {N} rows of {kind} hold NaN, infinity or nothing, the first is row {row}: a model without "
        "probabilities cannot be measured"
    )
    LOOKS_LIKE_PROBABILITIES = (
        "what is declared as {kind} looks like probabilities: every number is within [0, 1]{sums}. If they are "
        "probabilities, say --kind probabilities; if they truly are {kind}, say --kind {kind} --trust-kind "
        "(in Python: trust_kind=True)"
    )
    LOOKS_LIKE_LOSSES = (
        "what is declared as logits looks like -log p: exp(-z) sums to 1 in every row, and the largest would be the "
        "least probable. If so, turn the sign; if they truly are logits, say --trust-kind (in Python: trust_kind=True)"
    )
    OTHER_BASE = (
        "what is declared as {kind} are logarithms to base {base} of probabilities: {base}^z sums to 1 in every row. "
        "Multiply them by {factor:.6g}; if they truly are {kind}, say --trust-kind (in Python: trust_kind=True)"
    )
    TWO_COLUMNS = "log probabilities need a column for each of the 2 classes, not one"
    ABOVE_ONE = "row {row} is a probability above 1: {value:g}"
    NEGATIVE = (
        "{number} rows of probabilities are negative somewhere, the first is row {row}: are they logits (--kind "
        "logits) or log probabilities (--kind log_probabilities)?"
    )
    SUMS = (
        "{number} of {N} rows of {kind} do not sum to 1 within {allowed:g}{rounded}, the first is row {row}, whose sum "
        "is {total:.6g}: normalize them{hint}"
    )

    # several files
    MISSING_SHARD = "these are shards of one model, {count} by their names, and {problem}"
    SHARDS_OR_SEEDS = (
        "these are shards of one model by their names, and {one.name} and {other.name} hold {what}: if they are seeds "
        "or models, call the files so, seed1, seed2..."
    )
    SHARDS_DIFFER = (
        "by its name a shard of one model with {one.name}, and it holds {other.kind} of {other.Z_NK.shape[1]} classes "
        "and that {one.kind} of {one.Z_NK.shape[1]}"
    )
    CLASSES_DIFFER = (
        "its classes are not those of {first} ({strange!r} is in one alone): they are of different problems, or a "
        "column is missing"
    )
    CLASSES_IN_OTHER_ORDER = (
        "its classes ({classes}) are those of {first} ({firsts}) in another order, and its labels are numbers, which "
        "may follow either: give labels by name, or one order"
    )
    CROSSED = (
        "the names of the files differ in several numbers, and {names[0]} and {names[1]} stand in different orders, "
        "{one} and {other}: give both in one order, or call the files seed1, seed2..."
    )
    SEEDS_DIFFER = (
        "the seeds in the names of the files differ: {names[0]} has {ours} and {names[1]} has {theirs} ({gaps}): give "
        "the same seeds of both"
    )
    FILE_COUNT = (
        "{tests} test files and {calibrations} calibration files: give one of each for every model, in the same order"
    )
    CLASS_COUNTS = "the predictions differ in their number of classes ({counts}): they are of different problems"
    TWINS = "the same predictions as those of {twin}, and each file would count as a model of its own: give one of them"
    COPY = (
        "the same predictions as those of the test set, {test}: calibrators would be judged on what they were fitted "
        "to; --cross-fit 5 makes the most of one file"
    )
    NOTHING_OFFERED = "every calibration label is of a class that its row does not offer: logits of -inf, or near it"
    MODEL_COUNT = "A has {a} models and B has {b}: give as many of each, in the same order of seeds"
    OTHER_EXAMPLES = (
        "its examples are not those of {one}: {reason}; a paired comparison needs predictions for the same examples in "
        "the same order"
    )
    OTHER_SEED = "it is a trial of seed {other} and {one} one of seed {seed}: no pair"

    def of(self, origin: object, **fields: object) -> DataError:
        """The error of a file or model, or with an empty origin of none in particular, its fields filled."""
        text = self.format(**fields)
        return DataError(f"{origin}: {text}" if str(origin) else text)


def converting(path: Path) -> str:
    """The two lines of Python that make plain arrays of a file of pickled objects, for its owner to run."""
    suffix = path.suffix.lower()
    library = PICKLES.get(suffix, "numpy")
    imports = "import numpy" if library == "numpy" else f"import numpy, {library}"
    save = SAVES.get(suffix, SAVES_NAMES)
    lines = [TRUSTED, f"  {imports}; held = {READS[library]}", f"  {save}", *([SAVES_PAIRS] * (library == "pickle"))]
    plain = path.with_name(f"{path.stem}-plain{'.npy' if suffix == '.npy' else '.npz'}")
    return "\n".join(lines).format(path=str(path), plain=str(plain))


def refuse_repeated(names: Iterable[str], origin: object, what: str) -> None:
    """Raises DataError when a name comes twice: which of the two is meant cannot be told."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Refusal.REPEATED.of(origin, what=what, name=twice[0])


def _begins_as_pickle(path: Path) -> bool:
    """Whether a file begins as what pickle writes; numpy takes all that it cannot read for such a file."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def unreadable(path: Path, error: BaseException, part: str = "") -> DataError:
    """The error for a file, or a part of it, that a library could not read."""
    if not path.is_file():
        return (Refusal.FOLDER if path.is_dir() else Refusal.MISSING).of(path)
    if path.stat().st_size == 0:
        return Refusal.EMPTY.of(path)
    if "Object arrays" in str(error) or ("pickle" in str(error).lower() and _begins_as_pickle(path)):
        return Refusal.PICKLED.of(path, part=part or "it", lines=converting(path))
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if "allow_pickle" not in text else "its first bytes are those of no such file"  # numpy's guess
    return Refusal.UNREADABLE.of(path, suffix=path.suffix[1:], error=text[:200])
