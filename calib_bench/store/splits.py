"""Labels and origin of a run folder's splits, each stored once."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from calib_bench.core.trial import FILE, HF, Trial, of_file
from calib_bench.errors import DataError, StoreError
from calib_bench.store import planes
from calib_bench.system import files

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from calib_bench.core.splits import Splits

UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, zlib.error)
"""What reading a file of tensors raises where it is not what was written."""


class StoredSplits:
    """What a run folder knows of the data that its trials were trained on.

    Args:
        run: the run folder.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.folder = run, run / "splits"
        self._entropies: dict[Path, float] = {}

    def of(self, trial: Trial) -> Path:
        """Where the labels of a trial's splits are."""
        name = f"{trial.task.replace('/', '-')}-{trial.split}" + (f"-limit{trial.limit}" if trial.limit else "")
        # A pretrained head's labels are its own, and so are those of further test data.
        name += "-pretrained" if trial.weights else ""
        name += f"-{trial.weights.removeprefix(FILE)[:8]}" if trial.weights and of_file(trial.weights) else ""
        # So are the tokens that a model of transformers makes of texts, and what is noted of them.
        name += f"-{hashlib.sha256(trial.model.encode()).hexdigest()[:8]}" if trial.model.startswith(HF) else ""
        further = f"-shift-{hashlib.sha256(trial.shift.encode()).hexdigest()[:8]}" if trial.shift else ""
        return self.folder / (name + further)

    def write(self, trial: Trial, splits: Splits) -> dict[str, str]:
        """Stores labels and origin, once; returns what a trial records of its data.

        Raises:
            DataError: there are trials from data with another digest.
        """
        from safetensors.torch import save

        from calib_bench.core.splits import SPLITS

        data = {"source": splits.source, "digest": splits.digest, "preparation": splits.preparation}
        notes = dict(splits.notes)
        preprocess = {"preprocess": notes.pop("preprocess")} if "preprocess" in notes else {}
        labels = save({name: y_N.contiguous() for name, y_N in splits.labels().items()})
        sha256 = hashlib.sha256(labels).hexdigest()
        claim = {"digest": splits.digest, "preparation": splits.preparation, "labels_sha256": sha256}
        folder = self.of(trial)
        if (folder / "split.json").exists():
            stored = files.read_sealed(folder / "split.json")
            if any(stored[name] != value for name, value in claim.items()):
                raise DataError(
                    f"{self.run} holds trials on data from {stored['source']}, and this data, from {splits.source}, "
                    f"differs from it, in content or in how it is partitioned and prepared (digests "
                    f"{stored['digest'][:20]}/{stored['preparation'][:12]} and {splits.digest[:20]}/"
                    f"{splits.preparation[:12]}): results on different data do not mix; give another folder with out="
                )
            return data | preprocess
        files.write_bytes(folder / "labels.safetensors", labels)
        content = {
            "source": splits.source,
            **claim,
            "classes": splits.classes,
            "class_names": list(splits.class_names),
            "notes": notes,
            "sizes": {name: len(splits[name]) for name in ("train", *SPLITS)},
        }
        files.write_json(folder / "split.json", files.seal(content))
        return data | preprocess

    def labels(self, trial: Trial) -> dict[str, Tensor]:
        """Labels [N] int64 of the selection, calibration and test splits, and of further test splits with other labels
        than the test split's.

        Raises:
            StoreError: they are missing or damaged.
        """
        return tensors(self._labels(trial))

    def label_arrays(self, trial: Trial) -> dict[str, np.ndarray]:
        """`labels` as numpy arrays."""
        path = self._labels(trial)
        return numpy_arrays(path, path.read_bytes())

    def _labels(self, trial: Trial) -> Path:
        """The file of labels, if it is whole."""
        self.check(self.of(trial))
        return self.of(trial) / "labels.safetensors"

    def info(self, trial: Trial) -> dict[str, Any]:
        """Source, digest, class names, notes and sizes of a trial's splits."""
        return files.read_sealed(self.of(trial) / "split.json")

    def label_entropy(self, trial: Trial) -> float:
        """Entropy in nats of all labels that are stored of a trial's splits: stands for that of the training labels,
        which are of the same population, where a trial did not record it."""
        import torch

        from calib_bench.core.fate import label_entropy

        folder = self.of(trial)
        if folder not in self._entropies:
            y_N = torch.cat(list(self.labels(trial).values()))
            self._entropies[folder] = label_entropy(y_N, int(self.info(trial)["classes"]))
        return self._entropies[folder]

    def every(self) -> list[dict[str, Any]]:
        """`info` of all."""
        return [files.read_sealed(path) for path in sorted(self.folder.glob("*/split.json"))]

    def written(self) -> list[Path]:
        """The folders that are whole: split.json is written last."""
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [folder for folder in folders if (folder / "split.json").exists()]

    def check(self, folder: Path) -> None:
        """Raises StoreError where a folder's labels are not those that were written."""
        path = folder / "labels.safetensors"
        claimed = files.read_sealed(folder / "split.json").get("labels_sha256")
        if not path.is_file() or files.sha256(path) != claimed:
            raise StoreError(f"{path} is missing or damaged; running the study's command again writes it anew")


def tensors(path: Path | str, content: bytes | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name.

    Args:
        path: the file's place.
        content: its bytes, where they are read already.

    Raises:
        StoreError: it cannot be read.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path) if content is None else planes.load(content)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def numpy_arrays(path: Path | str, content: bytes) -> dict[str, np.ndarray]:
    """Arrays by name of a safetensors file at a place, from its bytes; its types are those that numpy has.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return planes.arrays(content)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path | str, error: Exception) -> StoreError:
    return StoreError(f"{path} cannot be read ({error}); run the study's command again")
