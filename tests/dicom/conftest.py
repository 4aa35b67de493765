"""A CT as DICOM, and an RTSTRUCT of its organs."""

from __future__ import annotations

from pathlib import Path

import pytest
from ct_with_organs import LABELS, grid, label_array, write_ct

from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rtstruct_writer import write_rtstruct


@pytest.fixture(scope="module")
def ct(tmp_path_factory) -> Series:
    return write_ct(tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def written(ct: Series, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("written") / "contours.dcm"
    assert write_rtstruct(grid(array=label_array()), ct, path, labels=LABELS, model="a model") == ["Brainstem"]
    return path
