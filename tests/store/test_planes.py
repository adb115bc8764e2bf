"""Logits as planes of bytes: every bit comes back, and what repeats takes no room."""

from __future__ import annotations

import io
import json
import zlib

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save

from calib_bench.store import planes
from calib_bench.store.contents import content_of
from tests.store.test_store import DATA, outcome


def bits(z: torch.Tensor) -> list[int]:
    return z.contiguous().view(torch.int32).reshape(-1).tolist()


@settings(max_examples=200)
@given(
    hnp.arrays(
        "int32",
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
        elements=st.integers(-(2**31), 2**31 - 1),
    )
)
def test_every_bit_pattern_comes_back_in_its_shape(pattern: object) -> None:
    z = torch.as_tensor(pattern, dtype=torch.int32).view(torch.float32)
    back = planes.load(planes.save({"z": z, "turned": z.T if z.ndim == 2 else z}))
    assert back["z"].shape == z.shape
    assert bits(back["z"]) == bits(z)
    assert bits(back["turned"]) == bits(z.T if z.ndim == 2 else z)


def test_logits_get_smaller_and_equal_rows_nearly_vanish() -> None:
    g = torch.Generator().manual_seed(0)
    z_NK = 5 * torch.randn(2000, 10, generator=g)
    assert len(planes.save({"test": z_NK})) < 0.9 * len(save({"test": z_NK}))
    assert len(planes.save({"test": z_NK[:1].repeat(2000, 1)})) < 0.05 * len(save({"test": z_NK}))
    long_NK = 5 * torch.randn(9000, 10, generator=g)
    content = planes.save({"test": long_NK})
    assert len(content) < 0.9 * len(save({"test": long_NK}))
    assert bits(planes.load(content)["test"]) == bits(long_NK)
    assert planes.save({"a": z_NK, "b": z_NK}) == planes.save({"b": z_NK, "a": z_NK})


def test_other_types_and_files_without_planes_are_read_as_they_are() -> None:
    mixed = {"b": torch.arange(5), "a": torch.randn(3).double(), "c": torch.tensor(1.5)}
    for content in (planes.save(mixed), save(mixed), save(mixed, {"class_names": "[]"})):
        back = planes.load(content)
        assert list(back) == ["a", "b", "c"]
        assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in mixed.items())


@pytest.mark.parametrize("harm", ["shape", "bytes"])
def test_metadata_that_do_not_fit_are_refused(harm: str) -> None:
    content = planes.save({"z": torch.randn(40, 3)})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    about = json.loads(header["__metadata__"][planes.PLANES])
    about["z"][harm] = [7]
    header["__metadata__"][planes.PLANES] = json.dumps(about)
    text = json.dumps(header).encode()
    with pytest.raises((ValueError, zlib.error), match=r"shape|zip|incorrect|decompress|broadcast"):
        planes.load(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_a_history_is_written_without_what_parquet_adds_and_read_the_same() -> None:
    result = outcome(0)
    frame = pd.read_parquet(io.BytesIO(content_of(result, DATA, {}, [])["history.parquet"]))
    pd.testing.assert_frame_equal(frame, pd.DataFrame(result.history))
