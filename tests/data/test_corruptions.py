"""Corruptions, the package's and a user's, and what they make of a task's test split."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calib_bench import registry
from calib_bench.core.corruption import SEVERITIES, Corruption
from calib_bench.core.settings import parse
from calib_bench.core.splits import Request, Splits
from calib_bench.data import corrupt
from calib_bench.data.corrupt import corrupted, spoiled
from calib_bench.data.raw_split import folder_part
from calib_bench.data.stream import Preprocess, StreamSplit
from calib_bench.data.text import TextSource, TextSplit, encode, train_tokenizer
from calib_bench.errors import DataError, SettingsError
from calib_bench.planning.defaults import resolve

CPU = torch.device("cpu")
IMAGES = registry.corruptions("image")
PLUGIN = '''
"""Images upside down from severity 3 on."""

from calib_bench import Corruption


def apply(x, severity):
    return x.flip(-2) if severity > 2 else x


CORRUPTION = Corruption(apply, "image", "upside down")
'''


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))


def digits(model: str = "cnn_8_16", limit: int | None = 60, split: int = 0) -> Splits:
    return registry.task("digits").load(Request("digits", split=split, limit=limit, model=model))


def of(splits: Splits, name: str, corruption: Corruption | None = None) -> dict[str, Any]:
    found = corruption or registry.load("corruptions", name)
    return corrupted("digits", splits, (1, 8, 8), name, found)


def inputs(split: Any, batch: int = 1000) -> torch.Tensor:
    """Prepared inputs in the order of the labels."""
    parts, indices = zip(*split.eval_batches(batch=batch, device=CPU), strict=True)
    return torch.cat(parts)[torch.cat(indices).argsort()]


def example(kind: str) -> Any:
    if kind == "text":
        return "This film is one of the best that I have ever seen, and I have seen hundreds of films."
    if kind == "vector":
        return torch.linspace(0.5, 1, 200)
    return torch.randint(0, 256, (3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", registry.names("corruptions"))
def test_every_corruption_keeps_its_contract(name: str) -> None:
    corruption = registry.load("corruptions", name)
    x = example(corruption.kind)
    before = x if isinstance(x, str) else x.clone()
    drawn = torch.random.get_rng_state(), random.getstate()
    out = [spoiled(corruption, name, severity, x, 7) for severity in SEVERITIES]
    again = [spoiled(corruption, name, severity, x, 7) for severity in reversed(SEVERITIES)][::-1]
    same = [a == b if isinstance(a, str) else torch.equal(a, b) for a, b in zip(out, again, strict=True)]
    assert all(same), "a draw depends on corruption, severity and example alone"
    assert torch.equal(torch.random.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]
    assert (x == before) if isinstance(x, str) else torch.equal(x, before)
    assert all(value != x if isinstance(x, str) else not torch.equal(value, x) for value in out)
    assert corruption.title
    assert corruption.kind in ("image", "text", "vector")


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_farther_from_the_clean_ones_at_each_severity(name: str) -> None:
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    photograph = torch.nn.functional.interpolate(coarse, 32, mode="bilinear")
    x = (photograph[0] * 255).to(torch.uint8)
    errors = [
        np.mean([(spoiled(IMAGES[name], name, s, x, row).float() - x.float()).square().mean() for row in range(5)])
        for s in SEVERITIES
    ]
    assert errors == sorted(errors)
    assert errors[0] > 0


def test_noise_has_the_deviation_it_says() -> None:
    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    noise = (spoiled(IMAGES["noise"], "noise", 2, grey, 0).float() - 128) / 255
    assert float(noise.std()) == pytest.approx(0.08, abs=0.003)
    assert abs(float(noise.mean())) < 0.004  # uint8 rounds down


def test_words_are_missing_and_misspelt_as_often_as_said() -> None:
    text = " ".join(f"word{i}" for i in range(4000))
    kept = spoiled(registry.load("corruptions", "word_dropout"), "word_dropout", 3, text, 0).split()
    assert len(kept) == pytest.approx(2800, abs=100)
    assert set(kept) <= set(text.split())
    misspelt = spoiled(registry.load("corruptions", "typing_errors"), "typing_errors", 4, text, 0).split()
    changed = [(a, b) for a, b in zip(text.split(), misspelt, strict=True) if a != b]
    assert len(changed) == pytest.approx(1200, abs=100)
    assert all(abs(len(a) - len(b)) <= 1 for a, b in changed)


def test_a_spoiled_example_does_not_depend_on_batch_limit_or_model() -> None:
    few, more, rows = (digits(limit=40), digits(limit=80), digits("mlp_128_128", 80))
    x_few, x_more, x_rows = (inputs(of(splits, "noise")["noise/4"], 7) for splits in (few, more, rows))
    assert torch.equal(x_few, x_more[:40])
    assert torch.equal(x_more.flatten(1), x_rows)
    assert x_rows.shape == (80, 64)
    assert float(x_rows.min()) >= 0
    assert float(x_rows.max()) <= 1
    assert torch.equal(x_more, inputs(of(more, "noise")["noise/4"], 80))


def test_what_does_nothing_leaves_the_clean_test_split() -> None:
    splits = digits(limit=None)
    nothing = of(splits, "nothing", Corruption(lambda x, severity: x, "image", "nothing"))
    levels = (splits.test.x * 255).round() / 255  # type: ignore[attr-defined]
    for split in nothing.values():
        assert torch.equal(inputs(split), levels)
        assert torch.equal(split.labels, splits.test.labels)


def test_texts_are_spoiled_as_words_and_read_on() -> None:
    strings = [f"{' '.join(f'w{i}' for i in range(12))} end{n}" for n in range(6)]
    tokenizer = train_tokenizer(strings, 100)
    tokens, offsets, _ = encode(tokenizer, strings, 8)
    source = TextSource(lambda: strings, tokenizer, 8)
    test = TextSplit(
        _cache(tokens), torch.from_numpy(offsets), torch.tensor([4, 1, 5]), torch.tensor([0, 1, 0]), source
    )
    splits = replace(digits(), test=test, spec=replace(digits().spec, kind="tokens"))
    same = corrupted("t", splits, (), "as_it_is", Corruption(lambda text, severity: text, "text", "nothing"))
    for split in same.values():
        for (x, lengths), index in split.eval_batches(batch=2, device=CPU):
            assert torch.equal(x, test.inputs(index, CPU)[0])
            assert torch.equal(lengths, test.inputs(index, CPU)[1])
    cut = Corruption(lambda text, severity: text.split(maxsplit=severity)[severity], "text", "without the first words")
    (x, _), _ = next(corrupted("t", splits, (), "cut", cut)["cut/5"].eval_batches(batch=3, device=CPU))
    expected, _, _ = encode(tokenizer, [" ".join(f"w{i}" for i in range(5, 12)) + " end4"], 8)
    assert x[0].tolist() == expected.tolist()


def _cache(tokens: np.ndarray) -> Any:
    from calib_bench.data.tensors import DeviceCache

    return DeviceCache(torch.from_numpy(tokens))


@pytest.mark.parametrize("workers", [0, 1])
def test_streamed_images_are_spoiled_after_the_crop_by_any_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("CALIB_BENCH_LOADERS", str(workers))
    (tmp_path / "images" / "a").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / "a" / f"{i}.png")
    test = StreamSplit(folder_part("test", tmp_path / "images"), torch.arange(4), Preprocess(size=32))
    splits = replace(digits(), test=test, spec=replace(digits().spec, kind="image", shape=(3, 32, 32)))
    split = corrupted("t", splits, (), "contrast", IMAGES["contrast"])["contrast/2"]
    clean, got = inputs(test, 2), inputs(split, 2)
    grey = clean * torch.tensor(test.preprocess.std).view(-1, 1, 1) + torch.tensor(test.preprocess.mean).view(-1, 1, 1)
    expected = torch.stack([IMAGES["contrast"].apply((x * 255).round().to(torch.uint8), 2) for x in grey]) / 255
    unnormalized = got * torch.tensor(test.preprocess.std).view(-1, 1, 1)
    torch.testing.assert_close(
        unnormalized + torch.tensor(test.preprocess.mean).view(-1, 1, 1), expected, atol=1e-6, rtol=0
    )


def test_a_users_corruption_is_used_like_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_plugins", {kind: {} for kind in registry._plugins})
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "upside_down.py").write_text(PLUGIN)
    settings = resolve(parse(["task=digits", f"plugins={folder}", "shift=all"]))
    assert settings.shift == ("blur", "contrast", "jpeg", "noise", "pixelate", "upside_down")
    splits = digits()
    made = of(splits, "upside_down")
    assert torch.equal(inputs(made["upside_down/5"]), inputs(made["upside_down/1"]).flip(-2))


def test_what_is_no_shifted_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"shift=nois is no corruption.*did you mean 'noise'"):
        resolve(parse(["task=digits", "shift=nois"]))
    (tmp_path / "noise").mkdir()
    with pytest.raises(SettingsError, match="give it another name"):
        resolve(parse(["task=digits", f"shift={tmp_path / 'noise'}"]))
    with pytest.raises(DataError, match="typing_errors is for text inputs, and those of task 'digits' are image"):
        of(digits(), "typing_errors")
    with pytest.raises(DataError, match=r"grey makes torch.uint8 \(8, 8\) of torch.uint8 \(1, 8, 8\)"):
        of(digits(), "grey", Corruption(lambda x, severity: x[0], "image", "grey"))


def test_comments_are_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, path = [], tmp_path / "code.py"
    monkeypatch.setattr(corrupt.inspect, "getfile", lambda _: str(path))
    for text in ("x = 1\n", "x = 1  # one\n", "x = 2\n"):
        path.write_text(text)
        codes.append(corrupt.code_of(IMAGES["noise"]))
    assert codes[0] == codes[1] != codes[2]
