from pathlib import Path

from verb_functions import run


def test_atlas_passes_its_options_on_and_says_what_an_atlas_lacks(calls, capsys):
    calls.summary.of_atlases = ["training case a has no Eye_L, on which it has no say"]
    options = "-f 2 --atlases 7 --channel T1 --series s.toml --key k.csv --layout dicom -np 3 --overwrite"
    options += " --rtstruct --smooth-contours --strict -num_parts 4 -part_id 3"
    assert run(f"atlas -d 501 -i imagesTs -o out {options}") == 0
    assert calls.kwargs == {
        "dataset_id": 501,
        "images": Path("imagesTs"),
        "out": Path("out"),
        "fold": 2,
        "n_atlases": 7,
        "channel": "T1",
        "series_file": Path("s.toml"),
        "key_file": Path("k.csv"),
        "layout": "dicom",
        "n_threads": 3,
        "rtstruct": True,
        "smooth_contours": True,
        "strict": True,
        "num_parts": 4,
        "part_id": 3,
        "overwrite": True,
    }
    out, err = capsys.readouterr()
    assert err == "warning: training case a has no Eye_L, on which it has no say\n"
    assert "out: 1 written, 0 skipped (already there), 0 failed" in out
