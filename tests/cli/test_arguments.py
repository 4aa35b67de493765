"""Types of arguments."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from nnunet_ext.cli.arguments import PairAction, ToleranceAction, megabytes, named_folder, natural_number, positive_int


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", ""])
def test_a_positive_number_is_whole_and_above_0(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number of 1 or more"):
        positive_int(text)
    assert (positive_int("3"), natural_number("0")) == (3, 0)


@pytest.mark.parametrize("text", ["-1", "nan", "much"])
def test_a_size_is_not_negative(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size in MB"):
        megabytes(text)
    assert megabytes("0.5") == 0.5


def test_a_tolerance_is_one_distance_or_one_per_organ_and_a_pair_is_a_tuple():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tolerance", nargs="+", action=ToleranceAction)
    parser.add_argument("--window", nargs=2, type=float, action=PairAction)
    assert parser.parse_args(["--tolerance", "1.5"]).tolerance == 1.5
    assert parser.parse_args(["--tolerance", "Lens_L=1", "Eye_L=2.5"]).tolerance == {"Lens_L": 1.0, "Eye_L": 2.5}
    assert parser.parse_args(["--window", "-160", "240"]).window == (-160.0, 240.0)


def test_a_folder_has_the_name_before_the_sign_or_its_own(tmp_path: Path):
    model = tmp_path / "CascadeOARTrainer__Plans__3d_fullres"
    model.mkdir()
    assert named_folder(str(model)) == ("3d_fullres", model)
    assert named_folder(f"mine={model}") == ("mine", model)
    assert named_folder(f"={model}") == ("3d_fullres", model)
    odd = tmp_path / "lr=0.1"
    odd.mkdir()
    assert named_folder(str(odd)) == ("lr=0.1", odd)
    assert named_folder(f"a=b={odd}") == ("a=b", odd)
    with pytest.raises(argparse.ArgumentTypeError, match="names no folder"):
        named_folder("mine=")
