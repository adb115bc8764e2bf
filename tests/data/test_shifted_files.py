"""Shifted test data in the layouts in which it is published: tiny files in the layouts of CIFAR-10-C and others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calib_bench.core.splits import Columns, InputSpec, Splits
from calib_bench.data.partition import limited_rows
from calib_bench.data.raw_split import folder_part
from calib_bench.data.shifted_files import CIFAR10, Shifted, imagenet, read_shifted
from calib_bench.data.stream import Preprocess, StreamSplit
from calib_bench.data.tensors import DeviceCache, TensorSplit
from calib_bench.errors import DataError

CPU = torch.device("cpu")
N, SIDE = 10, 32
REFERENCE = imagenet().synsets


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def task(names: tuple[str, ...] = CIFAR10) -> Splits:
    """A task of small colour images, normalized as CIFAR-10's are."""
    x = torch.from_numpy(pixels(N, 9).transpose(0, 3, 1, 2).copy())
    split = TensorSplit(
        DeviceCache(x), torch.arange(N), torch.zeros(N, dtype=torch.int64), normalize=((0.5,) * 3, (0.2,) * 3)
    )
    spec = InputSpec("image", (3, SIDE, SIDE))
    return Splits(split, split, split, split, spec, len(names), names, "made up", "0" * 64, {})


def read(source: Path, splits: Splits | None = None, limit: int | None = None) -> Shifted:
    return read_shifted(source, splits or task(), "cifar10", limit)


def inputs(split: Any) -> torch.Tensor:
    return torch.cat([x for x, _ in split.eval_batches(batch=4, device=CPU)])


@pytest.fixture
def cifar10_c(tmp_path: Path) -> Path:
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(np.arange(N), 5).astype(np.uint8))
    for seed, name in enumerate(("fog", "gaussian_noise")):
        np.save(folder / f"{name}.npy", pixels(5 * N, seed))
    return folder


def test_cifar10_c_has_a_split_for_each_corruption_and_severity(cifar10_c: Path) -> None:
    splits = read(cifar10_c).splits
    assert list(splits) == [f"CIFAR-10-C/{name}/{s}" for name in ("fog", "gaussian_noise") for s in range(1, 6)]
    split = splits["CIFAR-10-C/gaussian_noise/3"]
    expected = torch.from_numpy(pixels(5 * N, 1)[2 * N : 3 * N]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(inputs(split), (expected - 0.5) / 0.2)
    assert split.labels.tolist() == list(range(N))


def test_a_limit_takes_the_examples_that_it_takes_of_the_test_split(cifar10_c: Path) -> None:
    split = read(cifar10_c, limit=4).splits["CIFAR-10-C/fog/2"]
    assert split.labels.tolist() == limited_rows(N, "cifar10", 4).tolist()


def test_labels_follow_the_tasks_order_of_classes_by_name(cifar10_c: Path) -> None:
    splits = read(cifar10_c, task(CIFAR10[::-1])).splits
    assert splits["CIFAR-10-C/fog/1"].labels.tolist() == list(range(N))[::-1]
    (cifar10_c / "classes.txt").write_text("\n".join(f"kind {k}" for k in range(10)) + "\n")
    named = read(cifar10_c, task(tuple(f"kind {9 - k}" for k in range(10)))).splits
    assert named["CIFAR-10-C/fog/1"].labels.tolist() == list(range(N))[::-1]
    with pytest.raises(DataError, match="has a class 'kind 0' that the training split lacks"):
        read(cifar10_c)


def test_cifar10_1_is_a_pair_of_files_or_several_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "CIFAR-10.1"
    folder.mkdir()
    np.save(folder / "cifar10.1_v6_data.npy", pixels(7))
    np.save(folder / "cifar10.1_v6_labels.npy", np.arange(7)[::-1].astype(np.int32))
    assert list(read(folder).splits) == ["CIFAR-10.1"]
    one = read(folder / "cifar10.1_v6_data.npy").splits
    assert list(one) == ["cifar10.1_v6"]
    assert one["cifar10.1_v6"].labels.tolist() == list(range(7))[::-1]
    for kind, array in (("data", pixels(5)), ("labels", np.arange(5))):
        np.save(folder / f"cifar10.1_v4_{kind}.npy", array)
    assert list(read(folder).splits) == ["CIFAR-10.1/cifar10.1_v4", "CIFAR-10.1/cifar10.1_v6"]


def test_digests_tell_contents_apart(cifar10_c: Path) -> None:
    before = read(cifar10_c).digest
    assert read(cifar10_c).digest == before
    np.save(cifar10_c / "fog.npy", pixels(5 * N, 5))
    assert read(cifar10_c).digest != before


def image_folders(root: Path, classes: tuple[str, ...], each: int = 2) -> None:
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            grey = np.full((40, 44, 3), (10 * k + i) % 256, dtype=np.uint8)
            Image.fromarray(grey).save(root / name / f"ILSVRC2012_val_{k}{i}.png")


def streamed(tmp_path: Path, names: tuple[str, ...]) -> Splits:
    """A task of photographs whose classes are called so."""
    image_folders(tmp_path / "clean", ("a",))
    test = StreamSplit(folder_part("test", tmp_path / "clean"), torch.arange(2), Preprocess(size=32))
    return replace(task(), test=test, class_names=names, classes=len(names))


def test_imagenet_c_is_read_by_corruption_severity_and_wordnet_id(tmp_path: Path) -> None:
    names = (REFERENCE[5], REFERENCE[2])  # the task's own order
    for corruption in ("noise/shot_noise", "blur/defocus_blur"):
        for severity in range(1, 6):
            image_folders(tmp_path / "ImageNet-C" / corruption / str(severity), (REFERENCE[2], REFERENCE[5]))
    splits = read(tmp_path / "ImageNet-C", streamed(tmp_path, names)).splits
    expected = [f"ImageNet-C/{name}/{s}" for name in ("defocus_blur", "shot_noise") for s in range(1, 6)]
    assert sorted(splits) == expected
    split = splits["ImageNet-C/shot_noise/4"]
    assert split.labels.tolist() == [1, 1, 0, 0]
    levels = inputs(split)[:, 0, 0, 0] * 0.229 + 0.485
    assert (levels * 255).round().tolist() == [0, 1, 10, 11]
    next((tmp_path / "ImageNet-C" / "noise" / "shot_noise" / "2").glob("*/*")).unlink()
    with pytest.raises(DataError, match=r"shot_noise.* hold other numbers of images of a class"):
        read(tmp_path / "ImageNet-C", replace(task(), test=split, class_names=names, classes=2))


@pytest.mark.parametrize("described", [False, True])
def test_imagenet_v2_counts_its_folders_from_0_to_999(tmp_path: Path, described: bool) -> None:
    numbers = tuple(map(str, range(1000)))
    image_folders(tmp_path / "V2", numbers, each=1)
    names = imagenet().descriptions if described else REFERENCE
    split = read(tmp_path / "V2", streamed(tmp_path, tuple(names))).splits["V2"]
    assert split.labels.tolist() == list(range(1000))  # in the order of the numbers, not of their text


def test_class_folders_of_small_images_are_decoded(tmp_path: Path) -> None:
    for k, name in enumerate(("cat", "airplane")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        Image.fromarray(pixels(2)[k]).save(tmp_path / "mine" / name / "0.png")
    split = read(tmp_path / "mine").splits["mine"]
    assert split.labels.tolist() == [0, 3]
    expected = torch.from_numpy(pixels(2)[[1, 0]]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(inputs(split), (expected - 0.5) / 0.2)


def test_labels_without_names_say_how_to_name_them(cifar10_c: Path) -> None:
    with pytest.raises(DataError, match=r"without classes.txt beside it, has a class 'airplane'"):
        read(cifar10_c, task(tuple(f"kind {k}" for k in range(10))))


def test_numbers_are_scaled_as_the_columns_of_ones_own_data(tmp_path: Path) -> None:
    x_ND = np.random.default_rng(0).normal(3, 2, (10, 4))
    np.save(tmp_path / "labels.npy", np.arange(10) % 2)
    np.save(tmp_path / "noise.npy", x_ND)
    (tmp_path / "classes.txt").write_text("no\nyes\n")
    scale = torch.full((4,), 3.0, dtype=torch.float64), torch.full((4,), 2.0, dtype=torch.float64)
    columns = Columns(tuple("abcd"), "label", scale)
    made_up = task(("yes", "no"))
    own = replace(made_up, test=replace(made_up.test, normalize=None), columns=columns, spec=InputSpec("vector", (4,)))
    split = read(tmp_path, own).splits[f"{tmp_path.name}/noise/2"]
    np.testing.assert_allclose(inputs(split).numpy(), (x_ND[2:4] - 3) / 2, rtol=1e-6)
    assert split.labels.tolist() == [1, 0]
    for wrong, reason in (
        (x_ND[:, :3], r"float64 of shape \(10, 3\), and task 'cifar10' takes floats \[N, 4\]"),
        (x_ND.astype(int), "holds int64 of shape"),
        (np.where(np.arange(10)[:, None] == 7, np.nan, x_ND), "row 7 has a number that is not finite"),
    ):
        np.save(tmp_path / "noise.npy", wrong)
        with pytest.raises(DataError, match=reason):
            read(tmp_path, own)


def test_what_does_not_fit_is_refused(tmp_path: Path, cifar10_c: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no shifted data"):
        read(tmp_path / "empty")
    with pytest.raises(DataError, match="and task 'cifar10' takes other inputs"):
        read(cifar10_c, streamed(tmp_path, CIFAR10))
    np.save(cifar10_c / "fog.npy", pixels(5 * N)[:, :16])
    with pytest.raises(DataError, match=r"fog.npy holds uint8 images of shape \(3, 16, 32\)"):
        read(cifar10_c)
    np.save(cifar10_c / "fog.npy", pixels(N))
    with pytest.raises(DataError, match=r"holds 10 inputs and .*labels.npy 50 labels"):
        read(cifar10_c)
    np.save(cifar10_c / "labels.npy", np.full(5 * N, 10))
    with pytest.raises(DataError, match="has label 10; labels must be from 0 to 9"):
        read(cifar10_c)
    image_folders(tmp_path / "strange", ("unicorn",))
    with pytest.raises(DataError, match="class 'unicorn', which is no class of task 'cifar10'"):
        read(tmp_path / "strange")
    (cifar10_c / "fog.npy").write_text("no array")
    with pytest.raises(DataError, match="cannot be read as an array"):
        read(cifar10_c)
