"""The postprocessing that a model brings, which anybody may have written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.postprocessing.choice import read_postprocessing
from nnunet_ext.postprocessing.steps import Change, Step

DATASET = {"labels": {"background": 0, "Eye_L": 1, "Eye_R": 2}}
STOCK = "remove_all_but_largest_component_from_segmentation"


def ours(folder: Path, organs: object) -> Path:
    (folder / "organ_postprocessing.json").write_text(json.dumps({"organs": organs}))
    return folder


def stock(folder: Path, functions: list, arguments: list, folds: str = "0_1_2_3_4") -> Path:
    made = folder / f"crossval_results_folds_{folds}"
    made.mkdir(exist_ok=True)
    content = {"input_folder": {}, "postprocessing_fns": functions, "postprocessing_kwargs": arguments}
    (made / "postprocessing.json").write_text(json.dumps(content))
    return folder


class Boom:
    def __reduce__(self):
        return Path.touch, (Path("opened"),)


def test_a_model_without_any_has_none(tmp_path):
    assert read_postprocessing(tmp_path, DATASET) is None


def test_ours_comes_before_its_copy_in_the_dataset_json_and_before_nnunets(tmp_path):
    stock(tmp_path, [STOCK], [{"labels_or_regions": 1}])
    copied = {**DATASET, "organ_postprocessing": {"organs": {"Eye_R": [{"step": "fill_holes"}]}}}
    assert read_postprocessing(tmp_path, copied).steps == {"Eye_R": (Step("fill_holes"),)}
    ours(tmp_path, {"Eye_L": [{"step": "smooth", "sigma_mm": 1}], "Eye_R": []})
    found = read_postprocessing(tmp_path, copied)
    assert found.steps == {"Eye_L": (Step("smooth", 1.0),)}
    assert found.largest_of == ()


def test_nnunets_function_is_called_as_its_json_says_and_its_pickle_is_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stock(tmp_path, [], [], folds="0")
    stock(tmp_path, [STOCK, STOCK], [{"labels_or_regions": [1, 2]}, {"labels_or_regions": 1, "background_label": 0}])
    (tmp_path / "crossval_results_folds_0_1_2_3_4/postprocessing.pkl").write_bytes(pickle.dumps(Boom()))
    found = read_postprocessing(tmp_path, DATASET)
    assert found.source == "crossval_results_folds_0_1_2_3_4/postprocessing.json"
    label_map = np.zeros((5, 6, 12), np.uint8)
    label_map[2, 2, 1:4], label_map[2, 2, 4:6] = 1, 2  # touch: one component of both organs
    label_map[4, 4, 8:10], label_map[2, 4, 5] = 2, 1
    result, changes = found.apply(label_map, DATASET["labels"], spacing_mm=(1, 1, 1))
    expected = np.zeros_like(label_map)
    expected[2, 2, 1:4], expected[2, 2, 4:6] = 1, 2
    np.testing.assert_array_equal(result, expected)
    assert changes == {"Eye_L": Change(0, 1, False), "Eye_R": Change(0, 2, False)}
    assert not Path("opened").exists()


@pytest.mark.parametrize(
    ("organs", "said"),
    [
        ([], "organs is"),
        ({"Brain": [{"step": "fill_holes"}]}, "names 'Brain', which is no organ of the model"),
        ({"background": [{"step": "fill_holes"}]}, "no organ of the model"),
        ({"Eye_L": [{"step": "os.system"}]}, 'has the step "os.system", which is none of own_side, close_gaps'),
        ({"Eye_L": [{"step": ["smooth"]}]}, "which is none of"),
        ({"Eye_L": [{"step": "smooth"}]}, "other entries than it needs"),
        ({"Eye_L": [{"step": "fill_holes", "sigma_mm": 1}]}, "other entries than it needs"),
        ({"Eye_L": [{"step": "smooth", "sigma_mm": 1e9}]}, "must be above 0 and at most 10"),
        ({"Eye_L": [{"step": "smooth", "sigma_mm": True}]}, "must be above 0"),
        ({"Eye_L": [{"step": "small_pieces", "least_ml": float("nan")}]}, "must be above 0"),
        ({"Eye_L": [{"step": "fill_holes"}] * 17}, "17 steps"),
    ],
)
def test_what_is_no_known_step_on_an_organ_of_the_model_is_refused(tmp_path, organs, said):
    with pytest.raises(ValueError, match=r"organ_postprocessing\.json") as error:
        read_postprocessing(ours(tmp_path, organs), DATASET)
    assert said in str(error.value)
    assert "--no-postprocessing" in str(error.value)


@pytest.mark.parametrize(
    ("functions", "arguments", "said"),
    [
        (["system"], [{"labels_or_regions": 1}], 'names the function "system"'),
        ([STOCK], [], "1 functions and 0 arguments"),
        ([STOCK], [{"labels_or_regions": 3}], "other labels"),
        ([STOCK], [{"labels_or_regions": [1, "2"]}], "other labels"),
        ([STOCK], [{"labels_or_regions": 1, "background_label": 2}], "other labels"),
        ([STOCK], [{"labels": 1}], "are not those of"),
    ],
)
def test_nnunets_json_that_names_anything_else_is_refused(tmp_path, functions, arguments, said):
    with pytest.raises(ValueError, match=r"postprocessing\.json") as error:
        read_postprocessing(stock(tmp_path, functions, arguments), DATASET)
    assert said in str(error.value)
