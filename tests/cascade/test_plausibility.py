"""Alarms on organs that were swapped, moved, halved; none on cases like the training cases."""

import numpy as np
import pytest
from scipy import stats

from nnunet_ext.cascade.plausibility import (
    FEWEST_CASES,
    FLAGGED_SHARE,
    PlausibleRanges,
    fit_ranges,
    implausible,
    unlike_the_others,
)
from nnunet_ext.cascade.roi import OrganExtent, organ_extents
from nnunet_ext.messages import in_english

VOXEL_ML = 0.001


def fit(cases, labels) -> PlausibleRanges:
    return fit_ranges(cases, labels, voxel_ml=VOXEL_ML)


#: Any organs, two of them a pair; the numbers are no order.
LABELS = {"background": 0, "Gland_R": 4, "Gland_L": 2, "Cord": 7}
CENTRES_MM = {4: (10.0, 0.0, 30.0), 2: (12.0, 2.0, -30.0), 7: (-40.0, 20.0, 0.0)}  # z, y, x; x runs to the right
VOLUMES_ML = {4: 8.0, 2: 7.0, 7: 3.0}


def extent(centroid_mm, volume_ml: float) -> OrganExtent:
    nothing = (0.0, 0.0, 0.0)
    return OrganExtent(tuple(float(x) for x in centroid_mm), nothing, nothing, float(volume_ml))


def head(rng: np.random.Generator) -> dict[int, OrganExtent]:
    """One patient: centres vary by 2 mm, volumes by 15 %, the whole head by more."""
    shift, turn = rng.normal(0, 30, 3), np.linalg.qr(rng.normal(0, 0.05, (3, 3)) + np.eye(3))[0]
    turn *= np.sign(np.diag(turn))
    return {
        v: extent(turn @ (c + rng.normal(0, 2, 3)) + shift, VOLUMES_ML[v] * np.exp(rng.normal(0, 0.15)))
        for v, c in CENTRES_MM.items()
    }


def training(n: int) -> list[dict[int, OrganExtent]]:
    rng = np.random.default_rng(n)
    return [head(rng) for _ in range(n)]


USUAL = {v: extent(c, VOLUMES_ML[v]) for v, c in CENTRES_MM.items()}


def moved(organ: OrganExtent, *by_mm: float) -> OrganExtent:
    return extent(np.add(organ.centroid_mm, by_mm), organ.volume_ml)


def resized(organ: OrganExtent, factor: float) -> OrganExtent:
    return extent(organ.centroid_mm, factor * organ.volume_ml)


@pytest.mark.parametrize("n", [15, 60, 1000])
def test_at_most_the_stated_share_of_good_cases_is_flagged(n):
    rng = np.random.default_rng(0)
    ranges = fit(training(n), LABELS)
    flagged = sum(bool(implausible(head(rng), ranges, LABELS)) for _ in range(200)) / 200
    assert flagged < 1.5 * FLAGGED_SHARE


def test_a_range_is_the_prediction_interval_shared_among_all_ranges():
    """Volumes e^0, e^1, ... e^4 and one pair: 2 volumes, 1 ratio, 1 distance are 4 ranges."""
    labels = {"A_L": 1, "A_R": 2}
    cases = [{1: extent((0, 0, -9), np.exp(i)), 2: extent((0, 0, 9), 1.0)} for i in range(5)]
    ranges = fit(cases, labels)
    half = stats.t.ppf(1 - 0.1 / 4 / 2, 4) * np.sqrt(1 + 1 / 5) * np.sqrt(2.5)
    assert np.log(ranges.volume_ml["A_L"]) == pytest.approx([2 - half, 2 + half])
    assert ranges.left_to_right_volume["A_L"] == ranges.volume_ml["A_L"]
    least = stats.t.ppf(1 - 0.1 / 4 / 2, 4) * np.sqrt(1 + 1 / 5) * 1.0  # mm; all are 18 mm apart
    assert ranges.distance_mm == {"A_L": {"A_R": pytest.approx((18 - least, 18 + least))}}
    assert ranges.left_to_right_mm == {"A_L": -18}


def test_an_organ_of_few_voxels_may_differ_by_more():
    """All cases alike: 9 voxels give an SD of a sixth, 100,000 the least of a tenth; 2 volumes and 1 distance."""
    cases = [{1: extent((0, 0, 0), 9 * VOXEL_ML), 2: extent((0, 0, 9), 100.0)}] * 15
    ranges = fit(cases, {"Dot": 1, "Cord": 2})
    k = stats.t.ppf(1 - 0.1 / 3 / 2, 14) * np.sqrt(1 + 1 / 15)
    assert ranges.volume_ml["Dot"][1] == pytest.approx(9 * VOXEL_ML * np.exp(k / 6))
    assert ranges.volume_ml["Cord"][1] == pytest.approx(100 * np.exp(k / 10))


@pytest.mark.parametrize(
    ("left", "right", "pairs"),
    [("left gland", "right gland", None), ("左腺", "右腺", None), ("one", "other", [("one", "other")])],
)
def test_swapped_sides_are_seen_by_name_or_by_the_pairs_of_the_plan(left, right, pairs):
    labels = {"background": 0, right: 4, left: 2, "Cord": 7}
    ranges = fit_ranges(training(15), labels, voxel_ml=VOXEL_ML, pairs=pairs)
    assert list(ranges.left_to_right_volume) == [left]
    found = implausible({**USUAL, 2: USUAL[4], 4: USUAL[2]}, ranges, labels, pairs=pairs)
    assert f"{left} lies to the right of {right}: the sides may be swapped" in in_english(found)


@pytest.mark.parametrize("n", [15, 1000])
def test_a_usual_case_raises_no_alarm_and_each_mishap_its_own(n):
    ranges = fit(training(n), LABELS)

    def lines(changed: dict[int, OrganExtent]) -> list[str]:
        found = implausible({**USUAL, **changed}, ranges, LABELS)
        assert all(message.text("zh") != str(message) for message in found), "the report has it in Chinese, too"
        return in_english(found)

    assert lines({}) == []
    swapped = lines({2: USUAL[4], 4: USUAL[2]})
    assert "Gland_L lies to the right of Gland_R: the sides may be swapped" in swapped
    (small,) = lines({7: resized(USUAL[7], 0.4)})
    assert small.startswith("Cord measures 1.2 ml, usual are ")
    (large,) = lines({2: resized(USUAL[2], 2.6)})
    assert large.startswith("Gland_L measures 18.2 ml, usual are ")
    (far,) = lines({7: moved(USUAL[7], -25.0, 0.0, 0.0)})
    assert far.startswith("Cord lies ")
    assert "(and unusually far from or near to 1 more)" in far


def test_halves_of_a_pair_that_differ_are_said_where_each_alone_is_usual():
    rng = np.random.default_rng(1)
    cases = []
    for _ in range(40):  # heads of very different size, left and right alike
        size = np.exp(rng.normal(0, 0.3))
        cases.append({v: resized(USUAL[v], size) for v in USUAL})
    ranges = fit(cases, LABELS)
    (line,) = implausible({**USUAL, 2: resized(USUAL[2], 0.6)}, ranges, LABELS)
    assert str(line).startswith("Gland_L measures 0.525 times what Gland_R measures, usual are ")
    assert line.text("zh").startswith("Gland_L的体积是Gland_R的 0.525 倍")


def test_organs_that_are_not_there_are_not_compared():
    ranges = fit(training(15), LABELS)
    assert implausible({7: USUAL[7]}, ranges, LABELS) == []
    assert implausible({}, ranges, LABELS) == []


def test_one_mistaken_training_label_does_not_widen_the_range():
    cases = training(15)
    clean = fit(cases, LABELS).volume_ml["Cord"]
    cases.append({**cases[0], 7: resized(cases[0][7], 0.01)})
    widened = fit(cases, LABELS).volume_ml["Cord"]
    assert np.log(widened) == pytest.approx(np.log(clean), abs=0.1)


def test_an_organ_of_few_training_cases_has_no_range():
    cases = training(15)
    for case in cases[FEWEST_CASES - 1 :]:
        del case[7]
    ranges = fit(cases, LABELS)
    assert set(ranges.volume_ml) == {"Gland_L", "Gland_R"}
    assert implausible({**USUAL, 7: resized(USUAL[7], 9)}, ranges, LABELS) == []


def test_measures_of_a_label_map_do_not_depend_on_how_the_head_is_cropped():
    labels = np.zeros((5, 7, 11), np.uint8)
    labels[1:4, 2:4, 1:3], labels[1:3, 2:5, 8:10], labels[3:5, 5:7, 4:6] = 2, 4, 7
    spacing_mm = (3.0, 0.8, 0.7)
    whole = organ_extents(labels, spacing_mm=spacing_mm)
    cropped = organ_extents(labels[1:, 2:, 1:], spacing_mm=spacing_mm)
    apart = [fit([organs] * 5, LABELS).distance_mm["Gland_R"]["Cord"] for organs in (whole, cropped)]
    assert apart[0] == pytest.approx(apart[1])
    assert implausible(cropped, fit([whole] * 5, LABELS), LABELS) == []
    assert whole[2].volume_ml == pytest.approx(3 * 2 * 2 * 3.0 * 0.8 * 0.7 / 1000)


def test_the_plan_keeps_the_ranges_and_an_edited_plan_is_refused():
    ranges = fit(training(15), LABELS)
    plan = ranges.to_plan()
    assert PlausibleRanges.from_plan(plan) == ranges
    del plan["volume_ml"]
    with pytest.raises(ValueError, match=r"volume_ml.*Plan the dataset again"):
        PlausibleRanges.from_plan(plan)


def test_training_cases_whose_volumes_are_mistakes_are_named():
    cases = {f"case_{n}": organs for n, organs in enumerate(training(15))}
    assert unlike_the_others(cases, LABELS, voxel_ml=VOXEL_ML) == {}
    cases["case_3"] = {**cases["case_3"], 2: resized(cases["case_3"][2], 0.1), 7: resized(cases["case_3"][7], 30)}
    (case, lines), *others = unlike_the_others(cases, LABELS, voxel_ml=VOXEL_ML).items()
    assert (case, others) == ("case_3", [])
    assert [message.values["organ"] for message in lines] == ["Gland_L", "Cord"]
    assert " ml, in the other training cases " in str(lines[0])


def test_few_training_cases_name_no_mistakes():
    cases = dict(zip("abcd", training(4), strict=True))
    cases["a"] = {**cases["a"], 2: resized(cases["a"][2], 0.1)}
    assert unlike_the_others(cases, LABELS, voxel_ml=VOXEL_ML) == {}
