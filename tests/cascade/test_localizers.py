"""Which configuration locates for which, read off the entries of a plan."""

from __future__ import annotations

import pytest

from nnunet_ext.cascade.localizers import check_localizer, stage_of_maps, stages_located_by

CONFIGURATIONS = {
    "coarse": {"data_identifier": "small", "next_stage": "roi"},
    "whole": {"data_identifier": "large"},
    "whole_8": {"inherits_from": "whole"},
    "roi": {"inherits_from": "whole", "previous_stage": "coarse"},
    "crops": {"inherits_from": "roi", "previous_stage": "whole_8"},
    "small_crops": {"inherits_from": "crops", "data_identifier": "own"},
}


def test_a_localizer_writes_one_set_of_maps_for_each_data_of_those_that_name_it():
    assert stages_located_by(CONFIGURATIONS, "coarse") == ["roi"]
    assert stages_located_by(CONFIGURATIONS, "whole_8") == ["crops", "small_crops"]
    assert stages_located_by(CONFIGURATIONS, "whole") == []


def test_segmenters_on_the_same_data_share_the_maps():
    named = {**CONFIGURATIONS, "more": {"inherits_from": "crops"}, "other": {**CONFIGURATIONS["crops"]}}
    assert stage_of_maps(named, "more", "whole_8") == stage_of_maps(named, "other", "whole_8") == "crops"
    assert stage_of_maps(named, "small_crops", "whole_8") == "small_crops"
    moved = {**CONFIGURATIONS, "crops": {"inherits_from": "roi"}}  # to a localizer that has a next stage
    assert stage_of_maps(moved, "crops", "coarse") == "roi"


@pytest.mark.parametrize("name", ["coarse", "whole", "whole_8"])
def test_any_configuration_without_a_previous_stage_may_locate(name):
    assert check_localizer(CONFIGURATIONS, name, where="plan") == name


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("roi", "which has a previous stage itself"),
        ("wole", "which is not in the plan"),
        (3, "which is not in the plan"),
    ],
)
def test_another_word_is_refused_with_those_that_may(word, problem):
    with pytest.raises(ValueError, match=rf"plan: previous_stage is .*{word}.*, {problem}.*: coarse, whole, whole_8\."):
        check_localizer(CONFIGURATIONS, word, where="plan")
