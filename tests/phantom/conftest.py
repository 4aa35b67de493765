"""Three tiny phantoms, and one with findings, for the tests of their images and of their files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.phantom.anatomy import build_anatomy
from nnunet_ext.phantom.head_parameters import HeadParameters
from nnunet_ext.phantom.one_case import make_phantom

N_CASES = 3


@pytest.fixture(scope="session")
def folder(shared_phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms")
    shared_phantom.write(out, n_cases=N_CASES, size="tiny")
    return out


@pytest.fixture(scope="session")
def cases(folder):
    """Case -> file name without ending -> image, plus the record."""
    found = {}
    for case in sorted(folder.iterdir()):
        images = {name: sitk.ReadImage(str(case / f"{name}.nii.gz")) for name in ("CT", "T1", "T2", "label")}
        found[case.name] = images | {"record": json.loads((case / "phantom.json").read_text())}
    return found


@pytest.fixture(scope="session")
def troubled():
    """A case of another seed with a missing left eye, an orbital tumour and streaks from a clip."""
    head = HeadParameters.draw(np.random.default_rng(5))
    head = replace(head, missing_eye="left", tumour="orbit", streaks="clip")
    return make_phantom(1, 0, size="tiny", parameters=head)


@pytest.fixture(scope="session")
def unregistered(shared_phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("unregistered")
    return shared_phantom.write(out, n_cases=1, size="tiny", unregistered=True)[0]


@pytest.fixture(scope="session")
def head():
    return replace(HeadParameters.draw(np.random.default_rng(2)), tumour=None, streaks=None, missing_eye=None)


@pytest.fixture(scope="session")
def anatomy(head):
    return build_anatomy(head, np.random.default_rng(0))
