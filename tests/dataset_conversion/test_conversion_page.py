"""The page of a conversion."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from nnunet_ext.dataset_conversion.conversion_page import write_conversion_page


def record(name: str, eye: int = 1000, warnings: tuple[str, ...] = ()) -> dict:
    return {
        "identifier": name,
        "outputs": [f"labelsTr/{name}.nii.gz"],
        "channels": {
            "CT": {
                "size": [5, 7, 11],
                "spacing_mm": [1.0, 2.0, 3.0],
                "couch_and_mask_removed_ml": 41.6,
                "body_ml": 3000.0,
            },
            "T1": {
                "size": [5, 7, 11],
                "spacing_mm": [1.0, 2.0, 3.0],
                "coverage": 0.9,
                "n4_field": [0.81, 1.22],
                "registration": {"kept": "rigid", "moved_mm": {"mean": 12.34, "max": 20.0}},
            },
        },
        "reference_channel": "CT",
        "label_voxels": {"after": {"Eye_L": eye}},
        "warnings": list(warnings),
    }


def test_the_page_puts_failures_first_then_warnings_then_the_rest(tmp_path: Path):
    cases = [record("quiet"), record("noisy", warnings=("T1 covers 90% of the CT's body",))]
    page = write_conversion_page(tmp_path, cases=cases, failed={"lost": "no <CT>"}, label_names=["Eye_L"]).read_text()
    assert [page.index(word) for word in ("lost", 'id="noisy"', 'id="quiet"')] == sorted(
        page.index(word) for word in ("lost", 'id="noisy"', 'id="quiet"')
    )
    assert "no &lt;CT&gt;" in page
    assert "no <CT>" not in page
    assert "couch and mask 42 mL" in page
    assert "N4 field 0.81..1.22" in page
    assert "rigid alignment, moved 12.3 mm" in page
    assert "6.00" in page  # 1000 voxels of 6 mm3
    assert not re.search(r"https?:|//|<script", page)  # nothing from the network


def test_a_volume_far_from_the_other_cases_is_marked(tmp_path: Path):
    cases = [record(f"case_{n}", eye=1000 + 10 * n) for n in range(6)] + [record("odd", eye=1500)]
    page = write_conversion_page(tmp_path, cases=cases, failed={}, label_names=["Eye_L"]).read_text()
    assert "Eye_L has 9.00 mL, the median of the cases is 6.18 mL" in page
    assert page.count('class="bad"><small>') == 1
    few = write_conversion_page(tmp_path, cases=cases[-3:], failed={}, label_names=["Eye_L"]).read_text()
    assert 'class="bad"><small>' not in few


def test_the_page_shows_the_pictures_that_are_there_lazily(tmp_path: Path):
    folder = tmp_path / "preview" / "case_1"
    folder.mkdir(parents=True)
    (folder / "1_couch_and_mask.png").write_bytes(b"")
    sources = []

    class Images(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag == "img":
                sources.append((dict(attrs)["src"], dict(attrs)["loading"]))

    Images().feed(write_conversion_page(tmp_path, cases=[record("case_1")], failed={}).read_text())
    assert sources == [("preview/case_1/1_couch_and_mask.png", "lazy")]
