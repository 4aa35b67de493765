"""Records of cases that several machines write at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from late_files import late_files

from nnunet_ext.cases.records import merge_records, read_manifest, write_record
from nnunet_ext.files import write_json
from nnunet_ext.nnunet_folders import read_predictions_json

#: One of two parts: a header, a record per case, and all of them merged. Says how many of the other's it saw.
PART = """
import os, sys, time
from pathlib import Path
from nnunet_ext.files import write_json
from nnunet_ext.cases.records import MANIFEST, merge_records, read_manifest, write_record
out, part, together = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
(together / part).touch()
while len(os.listdir(together)) < 2:
    time.sleep(0.01)
write_json({"model": "m", "cases": read_manifest(out)["cases"]}, out / MANIFEST)
for number in range(40):
    write_record(out, f"{part}_{number}", {"warnings": [part]})
merge_records(out, {"model": "m"}, lambda cases: {"files": len(cases)})
print(sum(not name.startswith(part) for name in os.listdir(out / "records")))
"""


def test_where_locks_keep_nobody_out_and_files_are_seen_late_no_record_is_lost(tmp_path):
    out, together = tmp_path / "out", tmp_path / "together"
    out.mkdir()
    together.mkdir()
    environment = late_files(out, tmp_path) | {"LATE_S": "60"}  # neither sees any file of the other one
    parts = [
        subprocess.Popen(
            [sys.executable, "-c", PART, str(out), part, str(together)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for part in "ab"
    ]
    seen = [int(part.communicate(timeout=60)[0]) for part in parts]
    assert min(seen) < 40  # not all at once: a file whose inode was used before is not late
    of_one = {f"b_{number}": {"warnings": ["b"]} for number in range(40)}
    write_json({"model": "m", "cases": of_one}, out / "predictions.json")  # the worst that a manifest may hold
    found = read_predictions_json(out / "predictions.json")
    assert found["cases"] == {f"{part}_{number}": {"warnings": [part]} for part in "ab" for number in range(40)}
    assert json.loads((out / "predictions.json").read_text())["model"] == "m"
    merge_records(out, {}, lambda cases: {"files": len(cases)})
    content = json.loads((out / "predictions.json").read_text())
    assert (content["model"], content["files"], len(content["cases"])) == ("m", 80, 80)


def test_a_case_costs_one_small_file_however_many_there_are(tmp_path):
    (tmp_path / "predictions.json").write_text(json.dumps({"cases": {f"case_{n}": {} for n in range(5000)}}))
    before = (tmp_path / "predictions.json").stat()
    write_record(tmp_path, "case_7", {"failed": "no CT"})
    after = (tmp_path / "predictions.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [file.name for file in (tmp_path / "records").iterdir()] == ["case_7.json"]
    assert read_manifest(tmp_path)["cases"]["case_7"] == {"failed": "no CT"}


def test_a_case_taken_out_is_gone_and_records_without_a_manifest_are_found(tmp_path: Path):
    write_record(tmp_path, "a", {})
    write_record(tmp_path, "b", {})
    write_record(tmp_path, "a", None)
    assert read_manifest(tmp_path) == {"cases": {"b": {}}}
