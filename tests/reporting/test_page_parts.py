"""Parts of the page."""

from __future__ import annotations

import pytest

from nnunet_ext.reporting.page_parts import without_paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read /data/Zhang San/T1.nii.gz: cut off", "cannot read …: cut off"),
        ("file C:\\Users\\Li\\ct.nii is flat", "file … is flat"),
        ("Zhang_San_T1.nii.gz has 4 dimensions", "… has 4 dimensions"),
        ("spacing 1/2 mm and/or 3 mm", "spacing 1/2 mm and/or 3 mm"),
    ],
)
def test_messages_lose_paths_and_file_names(text, expected):
    assert without_paths(text) == expected
