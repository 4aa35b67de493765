"""The small head as a person."""

from __future__ import annotations

import pytest
from map_heads import head_map

from nnunet_ext.phantom.from_maps.map_labels import MapLabels, load_map_labels
from nnunet_ext.phantom.from_maps.person import Person, make_person


@pytest.fixture(scope="session")
def labels() -> MapLabels:
    return load_map_labels()


@pytest.fixture(scope="session")
def person(labels: MapLabels) -> Person:
    return make_person("small", head_map(), labels)
