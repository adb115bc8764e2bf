"""Pretrained heads: labels become the head's indices by class name, and the weights are part of a trial's key."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import facts, make

from calib_bench import models, registry
from calib_bench.analysis import controls
from calib_bench.core.settings import parse
from calib_bench.core.splits import InputSpec, Request, Splits
from calib_bench.core.task import SplitSizes
from calib_bench.core.trial import Trial, scored_as_published
from calib_bench.data import images
from calib_bench.data.heads import Head, Unmatched, on_head, places
from calib_bench.errors import SettingsError, UserError
from calib_bench.execute import worker
from calib_bench.models.timm import pretrained_head, weights_at_hand
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import plan
from tests.data.test_loaders import HUB, picture, write

SMALL = Head(
    ("n00000001", "n00000002", "n00000003", "n00000004", "n00000005"),
    ("crane", "crane", "harmonica, mouth organ, harp", "harp", "tench, Tinca tinca"),
)


@pytest.fixture(scope="module")
def imagenet() -> Head:
    head = pretrained_head("test_resnet")
    assert head is not None
    return head


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CALIB_BENCH_DATA", raising=False)
    monkeypatch.delenv("CALIB_BENCH_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=30, unique=True), st.sampled_from(["{}", "{} {}", "{}-{}"]))
def test_wordnet_ids_tell_the_output_in_any_order(imagenet: Head, chosen: list[int], form: str) -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = [form.format(info.index_to_label_name(k), info.index_to_description(k)) for k in chosen]
    assert list(places(names, imagenet)) == chosen


def test_descriptions_tell_the_output_where_they_mean_one(imagenet: Head) -> None:
    assert places(["tench, Tinca tinca", "Goldfish", "great_white_shark"], imagenet) == (0, 1, 2)
    assert places(["mouth organ", "harp"], SMALL) == (2, 3), "the other meaning of harp is taken"
    everything = list(imagenet.descriptions)
    assert places(everything, imagenet) == tuple(range(1000)), "the two cranes stand where they are"
    assert places(["crane 1", *everything[1:]], imagenet) == tuple(range(1000)), "so does a name of one's own"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["crane", "tench"], "'crane' means n00000001"),
        (["harp"], "n00000003 .* or n00000004"),
        (["tench", "Tinca tinca"], "means n00000005"),
        (["n00000009", "tench"], "'n00000009' is none"),
        (["n00000001 n00000002"], "means n00000001"),
        (["cat"], "'cat' is none"),
        (["0", "1"], "2 numbers"),
        (["1", "2", "3", "4", "5"], "5 numbers"),
    ],
)
def test_names_that_do_not_tell_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(Unmatched, match=words):
        places(names, SMALL)


def test_numbers_are_outputs_where_all_are_there() -> None:
    assert places(["0", "1", "2", "3", "4"], SMALL) == (0, 1, 2, 3, 4)
    assert places(["4", "01", "2", "3", "0"], SMALL) == (4, 1, 2, 3, 0)


def test_a_reversed_head_is_not_taken_for_one_in_place(imagenet: Head) -> None:
    assert places(imagenet.synsets[::-1], imagenet) == tuple(range(999, -1, -1))


def load(root: Path, names: list[str] | None, classes: int) -> Splits:
    write(root / "train.parquet", [picture(i) for i in range(40)], [i % 4 for i in range(40)], names)
    write(root / "test.parquet", [picture(i) for i in range(10)], [i % 4 for i in range(10)], names)
    loaded = images(HUB, SplitSizes(5, 6), classes=classes, mean=(0.5,) * 3, std=(0.5,) * 3)
    return loaded(Request("toy", data=root))


def test_labels_become_the_heads_indices(tmp_path: Path, imagenet: Head) -> None:
    outputs = [999, 0, 517, 134]
    before = load(tmp_path, [imagenet.synsets[k] for k in outputs], 4)
    after = on_head(before, imagenet, "timm/test_resnet", scored=True)
    assert after.classes == len(after.class_names) == 1000
    assert after.class_names[517] == imagenet.synsets[517]
    for name in ("train", "selection", "calibration", "test"):
        assert after[name].labels.tolist() == [outputs[label] for label in before[name].labels]
        assert torch.equal(after[name].rows, before[name].rows)  # type: ignore[attr-defined]
    assert after.preparation != before.preparation
    assert "1,000 outputs" in after.notes["head"]
    assert "4 of them" in after.notes["head"]


def test_foreign_classes_are_refused_where_the_head_is_scored_and_train_a_head_of_their_own(
    tmp_path: Path, imagenet: Head
) -> None:
    splits = load(tmp_path, ["cat", "dog", "crane", "quokka"], 4)
    with pytest.raises(SettingsError, match=r"1,000 classes.*WordNet ids.*epochs="):
        on_head(splits, imagenet, "timm/test_resnet", scored=True)
    assert on_head(splits, imagenet, "timm/test_resnet", scored=False) is splits
    assert on_head(splits, None, "timm/other", scored=True) is splits


def test_a_few_classes_counted_anew_are_not_the_heads_first(tmp_path: Path, imagenet: Head) -> None:
    """Labels 0 to 3, without names, where a thousand classes are declared."""
    splits = load(tmp_path, None, 1000)
    with pytest.raises(SettingsError, match="0 to 3, without names"):
        on_head(splits, imagenet, "timm/test_resnet", scored=True)
    spread = replace(splits, test=replace(splits.test, labels=splits.test.labels * 200))  # type: ignore[type-var]
    assert on_head(spread, imagenet, "timm/test_resnet", scored=True) is spread


def test_a_folder_of_some_of_imagenets_classes_is_scored_over_all_outputs(tmp_path: Path, imagenet: Head) -> None:
    """Folders in an order of their own; without pretrained weights, the classes are those of the folder."""
    outputs = {"n02085620-Chihuahua": 151, "n01440764": 0, "n07920052 espresso": 967}
    for name, (split, count) in itertools.product(outputs, (("train", 9), ("val", 2))):
        (tmp_path / "d" / split / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "d" / split / name / f"{i}.png").write_bytes(picture(i + 100 * len(name)))
    words = ["task=imagenet", f"data={tmp_path / 'd'}", "model=timm/test_resnet"]
    scratch = resolve(parse(words))
    assert worker.load_splits(scratch, next(iter(plan(scratch, lambda trial: None)))).classes == 3
    for epochs in ("0", "1"):
        resolved = resolve(parse([*words, "pretrained=true", f"epochs={epochs}", "warmup=0"]))
        splits = worker.load_splits(resolved, next(iter(plan(resolved, lambda trial: None))))
        assert splits.classes == 1000
        part = splits.test._images.part  # type: ignore[attr-defined]
        folders = [file.parent.name for file in part.files()]
        assert [outputs[folders[row]] for row in splits.test.rows] == splits.test.labels.tolist()  # type: ignore[attr-defined]
        assert {splits.class_names[k] for k in outputs.values()} == set(outputs)


# Weights


def save_weights(folder: Path, seed: int) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = models.build("timm/test_resnet", InputSpec("image", (3, 32, 32)), 1000)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "test_resnet.safetensors")


def planned(*words: str) -> list[Trial]:
    resolved = resolve(parse(["task=imagenet", "model=timm/test_resnet", *words]))
    assert resolve(resolved) == resolved
    return list(plan(resolved, lambda trial: None))


def test_other_weights_make_another_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    save_weights(folder, 0)
    monkeypatch.setenv("CALIB_BENCH_WEIGHTS", str(folder))
    (first,) = planned("pretrained=true")
    assert planned("pretrained=true")[0].key == first.key
    import hashlib

    content = (folder / "test_resnet.safetensors").read_bytes()
    assert first.weights == f"sha256:{hashlib.sha256(content).hexdigest()}"
    save_weights(folder, 1)
    (second,) = planned("pretrained=true")
    assert second.key != first.key
    spec = InputSpec("image", (3, 32, 32))
    models.build(second.model, spec, 1000, pretrained=True, weights=second.weights)
    with pytest.raises(UserError, match="is another file now"):
        models.build(first.model, spec, 1000, pretrained=True, weights=first.weights)
    (folder / "test_resnet.safetensors").unlink()
    with pytest.raises(UserError, match="is not there"):
        models.build(first.model, spec, 1000, pretrained=True, weights=first.weights)


def test_keys_of_other_trials_know_nothing_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path / "weights", 0)
    keys = [trial.key for trial in planned()]
    monkeypatch.setenv("CALIB_BENCH_WEIGHTS", str(tmp_path / "weights"))
    assert [trial.key for trial in planned()] == keys
    assert all("weights" not in trial.canonical() for trial in planned())


def test_the_hubs_commit_names_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest where the Hub answers, that of its cache where it does not; the same one is loaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights_at_hand("test_resnet") is None
    refs = tmp_path / "models--timm--test_resnet.r160_in1k" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("f" * 40)
    assert weights_at_hand("test_resnet") == f"hub:timm/test_resnet.r160_in1k@{'f' * 40}"
    (trial,) = planned("pretrained=true")
    asked: list[dict[str, Any]] = []

    def create_model(name: str, **options: Any) -> None:
        asked.append(options)

    monkeypatch.setattr("timm.create_model", create_model)
    models.build(trial.model, InputSpec("image", (3, 32, 32)), 1000, pretrained=True, weights=trial.weights)
    assert asked[0]["pretrained_cfg_overlay"] == {"hf_hub_id": f"timm/test_resnet.r160_in1k@{'f' * 40}"}


def test_a_stored_trial_of_an_earlier_version_keeps_its_key() -> None:
    (trial,) = planned("pretrained=true")
    old = trial.model_copy(update={"weights": None})
    dumped = {key: value for key, value in json.loads(old.model_dump_json()).items() if key != "weights"}
    assert Trial(**dumped).key == old.key
    assert old.model_copy(update={"weights": "sha256:0"}).key != old.key


# Controls

STUDIES = {
    "separation": (),
    "learning_rate": (),
    "two_temperatures": (),
    "beta_switch": (),
    "stability": (),
    "tune": ("budget=2", "tune_seeds=1"),
}


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("epochs", [1, 2])
def test_no_study_scores_a_head_that_nothing_trains(study: str, epochs: int) -> None:
    """An eighth of one epoch is none, and a new head without training has nothing to measure."""
    words = ("beta=0.1,1", "lr=0.01,0.1", "objective=cross_entropy", "seed=0..2", f"epochs={epochs}", "pretrained=true")
    resolved = resolve(
        parse(["task=cifar10", "model=timm/test_resnet", f"study={study}", "warmup=0", *words, *STUDIES[study]])
    )
    scores: dict[str, float] = {}

    def wanted() -> list[Trial]:
        return registry.study(study).plan(resolved, lambda trial: scores.get(trial.key))

    while new := [trial for trial in wanted() if trial.key not in scores]:
        scores.update({trial.key: facts(trial)["selection"]["log_loss"] for trial in new})
        assert not any(scored_as_published(trial) for trial in new)
    lengths = {trial.epochs for trial in wanted() if trial.probe is None}
    assert lengths == ({1} if epochs == 1 else {1, 2}), "of two epochs the control has one"


def test_it_is_said_where_there_is_nothing_to_compare_too(tmp_path: Path) -> None:
    words = ("beta=1", "objective=cross_entropy", "seed=0", "epochs=1", "pretrained=true", "warmup=0", "lr=0.1")
    store, resolved = make(tmp_path / "run", "model=timm/test_resnet", "calibrator=temperature_scaling", *words)
    verdict = registry.study("separation").analyse(resolved, store).verdict
    begins = ("beta=1, cross_entropy: accuracy 0.", "There is nothing to compare")
    assert [text.startswith(begin) for text, begin in zip(verdict, begins, strict=False)] == [True, True]
    assert "left out, since" in verdict[2]


@pytest.mark.parametrize("study", ["separation", "tune"])
def test_a_control_that_cannot_be_made_is_left_out_with_a_sentence(tmp_path: Path, study: str) -> None:
    words = (
        "beta=0.1,1",
        "objective=cross_entropy",
        "seed=0..1",
        "epochs=1",
        "pretrained=true",
        "warmup=0",
        "lr=0.1,1",
    )
    store, resolved = make(
        tmp_path / "run", "model=timm/test_resnet", f"study={study}", "calibrator=temperature_scaling", *words,
        *STUDIES[study],
    )  # fmt: skip
    analysis = registry.study(study).analyse(resolved, store)
    said = [sentence for sentence in analysis.verdict if "ositive control" in sentence]
    assert said == [
        "Positive control (timm/test_resnet): left out, since the reference trains published weights for 1 epoch, "
        "which leaves no shorter training: give epochs=2."
    ]
    frame = analysis.tables["controls"].frame.set_index("control")
    assert frame.loc[controls.UNDERTRAINED, "trained"] == "left out"
    assert frame.loc[controls.RESCALED, "passed"]
