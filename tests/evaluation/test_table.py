"""The table of means."""

from __future__ import annotations

import numpy as np
from scored_label_maps import HALF_LENS, LENS, REFERENCE, label_map, score, write


def test_table_is_laid_out_as_papers_print_it(folders):
    predictions, references, out = folders
    for case in ("case_1", "case_2"):
        write(references, case, REFERENCE)
    write(predictions, "case_1", label_map((LENS, 1)))
    write(predictions, "case_2", HALF_LENS)
    write(predictions, "case_7", HALF_LENS)
    lines = score(folders, tolerance_mm=2.0).table_markdown.splitlines()
    # Of the lens only surface elements at 0.7 and 1.4 mm from the other surface count: 0.25 mm on average.
    assert lines[:5] == [
        "| organ | DSC % | HD95 mm | plain HD95 mm | mean surface distance mm | surface dice "
        "| volume difference % | tolerance mm | n |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| Lens_L | 83.33 +- 23.57 (83.33) | 0.70 +- 0.99 (0.70) | 0.70 +- 0.99 (0.70) | 0.12 +- 0.18 (0.12) "
        "| 1.000 +- 0.000 (1.000) | -25.0 +- 35.4 (-25.0) | 2 | 2 |",
        "| OpticChiasm | 50.00 +- 70.71 (50.00) | 8.88 +- 12.56 (8.88) | 8.88 +- 12.56 (8.88) | 8.88 +- 12.56 (8.88) "
        "| 0.500 +- 0.707 (0.500) | -50.0 +- 70.7 (-50.0) | 2 | 2 |",
        "| all organs | 66.67 +- 23.57 (66.67) | 4.79 +- 5.79 (4.79) | 4.79 +- 5.79 (4.79) | 4.50 +- 6.19 (4.50) "
        "| 0.750 +- 0.354 (0.750) | -37.5 +- 17.7 (-37.5) | - | 2 |",
    ]
    text = "\n".join(lines)
    assert "counted): case_1: OpticChiasm\n" in text
    assert "(in neither mask, not counted): none" in text
    assert "(ignored): case_7" in text
    assert (out / "evaluation.md").read_text().splitlines() == lines


def test_table_of_one_case_shows_no_sd_and_each_tolerance(folders):
    predictions, references, _ = folders
    write(references, "case_1", label_map((LENS, 1)))
    write(predictions, "case_1", label_map((np.s_[2, 2:4, 2:4], 1)))
    table = score(folders, tolerance_mm={"Lens_L": 1.5, "OpticChiasm": 1.0}).table_markdown
    assert "| Lens_L | 66.67 +- - (66.67) | 1.40 +- - (1.40) |" in table
    assert "| 1.000 +- - (1.000) | -50.0 +- - (-50.0) | 1.5 | 1 |" in table
    assert "| OpticChiasm | - | - | - | - | - | - | 1 | 0 |" in table
