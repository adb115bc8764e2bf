"""What names of columns and arrays say: which kind of prediction, the labels, the rows, or none of these.

Names alone decide, never what the numbers look like.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

ANSWER = {"label", "score"}
"""What classification pipelines say of a class."""
UNORDERED = "each row names its classes, whose order says nothing"
"""A note on predictions whose classes have names and no places."""
KINDS: dict[str, tuple[str, ...]] = {
    "logits": ("logits", "logit"),
    "probabilities": ("probabilities", "probability", "probs", "prob", "probas", "proba", "predict_proba", "y_prob"),
    "log_probabilities": ("log_probabilities", "log_probability", "log_probs", "log_prob", "logprobs", "logp"),
    "scores": ("scores", "score", "margins", "margin", "decision_function"),
}
"""Kinds of predictions, and the names of each."""
SUM_TO_ONE = ("probabilities", "log_probabilities")
"""Kinds whose rows sum to one, as probabilities."""
LABELS = (
    "labels", "label", "targets", "target", "y", "y_true", "true_label", "true_labels", "true_class", "ground_truth",
    "gt", "gt_label", "gold_label", "expected", "expected_label", "actual", "actual_label", "label_id", "label_ids",
    "label_idx", "labels_true", "y_test",
)  # fmt: skip
"""Names of labels; capitals, blanks, hyphens and underscores in a name make no difference."""
ROW_IDS = (
    "id", "ids", "idx", "index", "indices", "row", "row_id", "row_index", "sample", "sample_id", "sample_index",
    "sample_idx", "example", "example_id", "example_index", "image_id", "image_index", "image_name", "image_path",
    "image", "img", "img_id", "img_path", "text_id", "doc_id", "uid", "uuid", "guid", "qid", "key", "name", "path",
    "paths", "filepath", "file_path", "file", "filename", "file_name", "files", "filenames", "unnamed:_0",
    "unnamed:_0_1", "level_0", "", "__index_level_0__",
)  # fmt: skip
"""Names of columns that name the rows."""
_ROW_ID = re.compile(r".*(?:[\s_.-][iI][dD]|[a-z]I[dD])s?")
"""Other names that end in id, as `user_id` and `PassengerId`."""
ROW_TEXTS = ("text", "texts", "sentence", "question", "prompt", "query", "url")
"""Names of columns that name the rows where they hold texts."""
NO_CLASS = (
    "fold", "folds", "split", "set", "subset", "pred", "preds", "prediction", "predictions", "predicted", "y_pred",
    "y_hat", "yhat", "pred_label", "predicted_label", "predicted_class", "pred_class", "top1", "argmax", "confidence",
    "conf", "max_prob", "max_probability", "msp", "entropy", "loss", "nll", "margin", "uncertainty", "variance",
    "energy", "age", "year", "lr", "learning_rate", "duration", "latency",
    "correct", "is_correct", "hit", "acc", "accuracy", "weight", "weights", "sample_weight", "seed",
    "epoch", "step", "batch", "run", "trial", "model", "temperature", "beta", "group", "timestamp", "time", "date",
    "length", "rank", "max", "min", "mean", "median", "std", "sum",
)  # fmt: skip
"""Names of columns that hold neither a class nor the row's name, as its fold or its prediction."""
CONFIDENCE = ("confidence", "conf", "maxprob", "maxprobability", "topprob", "topprobability", "msp")
CORRECT = ("correct", "iscorrect", "wascorrect", "hit", "right", "isright")
"""Names, without what stands between words, of a confidence in one answer, and of whether that was right."""
CLASS_NAMES = ("classes", "class_names", "classnames", "classes_", "label_names", "categories", "target_names")
"""Names of arrays that hold the classes' names, in the order of the columns of the predictions."""
SUMMARIES = (
    "max", "min", "top", "top1", "true", "label", "pred", "predicted", "target", "mean", "std", "margin", "correct",
)  # fmt: skip
"""What a column `prob_max` says after its kind where it is no class."""


def kind_of(name: str) -> str | None:
    """The kind of prediction (one of KINDS) that a name says, if any."""
    lower = name.strip().lower()
    return next((kind for kind, names in KINDS.items() if lower in names), None)


def plain(name: str) -> str:
    """A name in lower case with underscores between words: `Image ID` and `image-id` are the same."""
    return re.sub(r"[\s.-]+", "_", name.strip().lower())


def letters(name: str) -> str:
    """A name in lower case without blanks, points, hyphens and underscores: `Y True` and `y_true` are the same."""
    return plain(name).replace("_", "")


def listed(names: Iterable[object]) -> str:
    """Names or numbers with commas between, for people."""
    return ", ".join(map(str, names))


def not_used(names: Iterable[str], ids: Collection[str] = ()) -> list[str]:
    """Notes that columns or arrays were not used, and of those that name the rows that they do; none without any."""
    others, of_rows = [name for name in names if name not in ids], [name for name in names if name in ids]
    notes = {"not used": others, "names of rows": of_rows}
    return [f"{note}: {listed(named)}" for note, named in notes.items() if named]


def names_rows(name: str) -> bool:
    """Whether a name says that its column names the rows."""
    return plain(name) in ROW_IDS or _ROW_ID.fullmatch(name.strip()) is not None


def says_something_else(name: str) -> bool:
    """Whether a name says that its column holds no class, but the row's name or something else of the row."""
    return names_rows(name) or plain(name) in NO_CLASS
