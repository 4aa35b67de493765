import base64
import gzip
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from screenshots import Browser, find_browser

from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.labels.colours import colours
from nnunet_ext.messages import Message
from nnunet_ext.reporting.content import Cell, Experiment, Picture, Report, Table
from nnunet_ext.reporting.page import write_report_page
from nnunet_ext.reporting.viewing import view

LABELS = {"Eye_L": 1, "Eye_R": 2, "OpticChiasm": 3}
SHAPE, SPACING_MM = (12, 44, 52), (3.0, 1.2, 1.1)  # Z, Y, X
LOST = "the localizer found no organ: the whole body was segmented instead of the ROI"
ASSETS = resources.files("nnunet_ext.reporting") / "assets"


def write(array: np.ndarray, path: Path) -> None:
    """An image whose axes run to the patient's right, anterior and superior, oblique, with a telling header."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    turn = np.radians(6.0)
    image.SetDirection((-np.cos(turn), np.sin(turn), 0, -np.sin(turn), -np.cos(turn), 0, 0, 0, 1))
    image.SetOrigin((25.0, 30.0, -12.0))
    image.SetMetaData("descrip", "ZHANG^SAN 19700101")
    image.SetMetaData("aux_file", "PatientID 4711")
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Three cases: all well; left eye missed; far off. On the CT the organs are bright, on T1 dark."""
    folder = tmp_path_factory.mktemp("ZHANG_SAN")
    for number, case in enumerate(("case_a", "case_b", "case_c")):
        reference = np.zeros(SHAPE, np.uint8)
        reference[4:8, 28:34, 6:14] = 2  # x runs to the right: the right eye has the larger x
        reference[4:8, 28:34, 6:14] = 1
        reference[4:8, 28:34, 36:44] = 2
        reference[5:7, 10:13, 22:30] = 3
        prediction = reference.copy()
        if number == 1:
            prediction[prediction == 1] = 0
        if number == 2:
            prediction[prediction == 3] = 0
            prediction[5:7, 19:22, 26:34] = 3
        organs = reference > 0
        write(np.where(organs, 200, -120).astype(np.int16), folder / "imagesTs" / f"{case}_0000.nii.gz")
        write(np.where(organs, 10, 90).astype(np.float32), folder / "imagesTs" / f"{case}_0001.nii.gz")
        write(reference, folder / "labelsTs" / f"{case}.nii.gz")
        write(prediction, folder / "predictions" / f"{case}.nii.gz")
    dataset = {"labels": {"background": 0, **LABELS}, "channel_names": {"0": "CT", "1": "T1"}}
    (folder / "predictions" / "dataset.json").write_text(json.dumps(dataset))
    manifest = {
        "case_a": {"warnings": []},
        "case_b": {"missing": ["Eye_L"], "warnings": [f"T1 came from {folder}/imagesTs/case_b_0001.nii.gz, odd"]},
        "case_c": {
            "fallback_whole_volume": True,
            "warnings": [LOST],
            "messages": [{"kind": "no_organ_located", "values": {}}],
        },
    }
    (folder / "predictions" / "predictions.json").write_text(json.dumps({"cases": manifest}))
    return folder


@pytest.fixture(scope="module")
def report(study) -> Report:
    scores = evaluate(
        study / "predictions", study / "labelsTs", study / "evaluation", n_processes=1, show_progress=False
    )
    images = {
        case: {name: study / "imagesTs" / f"{case}_{i:04d}.nii.gz" for i, name in enumerate(("CT", "T1"))}
        for case in scores.cases
    }
    (study / "box.png").write_bytes(
        base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgAB4iG8MwAAAABJRU5ErkJggg==")
    )
    row = Cell(Message("cell_organ", {"organ": "Eye_L"})), Cell("88.1 <b> +- 2", best=True)
    notes = Message("note_means", {"n": 3}), Message("note_shared_organs")
    table = Table("dsc", Message("title_dsc"), (Message("head_organ"), "ours"), (row,), notes)
    return Report(
        study,
        (Experiment("ours", study / "evaluation", scores, images),),
        tuple(LABELS),
        scores.cases,
        scores.cases,
        "OpticChiasm",
        tables=(table,),
        pictures=(Picture("box", "box", "Box plots", "box.png"),),
        remarks=(Message("case_not_drawn", {"case": "case_a", "error": f"{study}/labelsTs/x.nii.gz is cut off"}),),
    )


@pytest.fixture(scope="module")
def page(report, study) -> Path:
    return write_report_page(report, study / "report.html", show_progress=False).path


def content(page: Path) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page.read_text())
    return json.loads(text)


# What the page says ---------------------------------------------------------------------------------------------------


def test_cases_are_ordered_worst_first_with_their_reasons(page):
    cases = content(page)["experiments"][0]["cases"]
    assert [case["name"] for case in cases] == ["case_b", "case_c", "case_a"]
    assert [[r["kind"] for r in case["reasons"]] for case in cases] == [
        ["missed", "warnings"],
        ["fallback", "low", "far", "warnings"],
        [],
    ]
    assert cases[0]["reasons"][0]["organs"] == ["Eye_L"]
    assert cases[1]["reasons"][1]["organs"] == ["OpticChiasm"]


def test_a_warning_has_its_chinese_text_by_its_kind(page):
    case_b, case_c, _ = content(page)["experiments"][0]["cases"]
    assert case_b["warnings"] == ["T1 came from …, odd"], "of an earlier version"
    assert case_c["warnings"] == [
        {"en": LOST, "zh": "定位网络未找到任何器官：改为分割整个身体，而不是感兴趣区域（ROI）"}
    ]


def test_files_in_the_values_of_a_message_are_not_on_the_page(page):
    assert content(page)["remarks"] == [{"en": "case 'case_a': … is cut off", "zh": "病例“case_a”：… is cut off"}]


def test_page_and_evaluation_say_the_same_numbers(page, report):
    shown = content(page)["experiments"][0]
    scores = report.experiments[0].scores
    assert shown["per_organ"]["Eye_L"]["dsc_percent"]["mean"] == pytest.approx(200 / 3, abs=1e-3)
    for case in shown["cases"]:
        for organ, values in case["scores"].items():
            assert values["dsc_percent"] == pytest.approx(scores.scores(case["name"])[organ], abs=1e-4)


def test_page_holds_no_path_no_header_and_nothing_to_load(page, study):
    text = page.read_text()
    packed = re.findall(r'id="case:[^"]*">([^<]*)<', text)
    assert len(packed) == 3
    unpacked = b"".join(gzip.decompress(base64.b64decode(data)) for data in packed).decode("latin-1")
    for secret in (str(study), study.name, "ZHANG", "4711", "19700101", ".nii", "imagesTs", "n+1\0"):
        assert secret not in unpacked
        assert secret not in re.sub(
            r'<script type="text/plain".*?</script>', "", text.split('id="strings"')[1].replace(_script(), "")
        )
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))


def _script() -> str:
    return "\n".join((ASSETS / name).read_text() for name in ("contours.js", "viewer.js", "page.js"))


def test_experiment_called_as_the_reference_is_refused(report, tmp_path):
    first = report.experiments[0]
    with pytest.raises(ValueError, match="called 'reference'"):
        write_report_page(replace(report, experiments=(replace(first, name="reference"),)), tmp_path / "r.html")


def test_cases_beyond_the_limit_are_listed_without_a_viewer(report, study, page):
    sizes = {}
    for limit_mb in (0, 0.02):
        summary = write_report_page(report, study / "small.html", viewer_limit_mb=limit_mb, show_progress=False)
        sizes[limit_mb] = summary.path.stat().st_size
        assert sum(summary.case_bytes.values()) <= limit_mb * 1e6
        assert set(summary.left_out) | set(summary.case_bytes) == {"case_a", "case_b", "case_c"}
        assert len(content(summary.path)["experiments"][0]["cases"]) == 3
    assert sizes[0] < 300_000 < page.stat().st_size


def test_unreadable_images_cost_their_case_only(report, study, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    first = report.experiments[0]
    images = {**first.images, "case_b": {"CT": broken}, "case_c": {}}
    changed = replace(report, experiments=(replace(first, images=images),))
    summary = write_report_page(changed, tmp_path / "report.html", show_progress=False)
    assert summary.left_out == {"case_b": "failed", "case_c": "images"}
    assert list(summary.case_bytes) == ["case_a"]


def test_both_languages_have_the_same_strings_with_the_same_places():
    strings = json.loads((ASSETS / "strings.json").read_text())
    assert strings["en"].keys() == strings["zh"].keys()
    for key, english in strings["en"].items():
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", strings["zh"][key])), key


def test_every_string_is_used_and_every_used_string_exists():
    keys = set(json.loads((ASSETS / "strings.json").read_text())["en"])
    source = _script() + (ASSETS / "page.html").read_text()
    used = set(re.findall(r"""(?:\bt\(|data-text=|data-title=)["'](\w+)["']""", source))
    prefixes = tuple(re.findall(r"\bt\(`(\w+_)\$\{", source))
    assert used <= keys
    listed = {"dsc", "hd95", "surface_dice", "n"} | {"axial", "coronal", "sagittal", "reference", "prediction"}
    assert {key for key in keys - used - listed if not key.startswith(prefixes)} == set()


# In the browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(page):
    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium or Chrome found to open the page in")
    with Browser(executable, size=(900, 600)) as browser:
        browser.open(page)
        yield browser
        assert browser.errors == []
        assert browser.requests == [page.resolve().as_uri()], "nothing but the page itself was asked for"


@pytest.fixture
def viewer(browser):
    """The viewer of case_a as it opens."""
    browser.evaluate("goToCase('case_a')")
    browser.wait("shownCase() && shownCase().name === 'case_a'")
    browser.evaluate("viewer.show = { reference: true, prediction: true }; viewer.hidden.clear(); setChannel(0)")
    browser.evaluate("viewer.reset(); viewer.update(); viewer.goTo('Eye_R')")
    return browser


#: Canvas position of a voxel of the axial tile, and the grey value NiiVue drew there.
GREY_AT = """
((x, y) => {
  viewer.slices.drawScene();
  const number = viewer.slices.screenSlices.findIndex((tile) => tile.axCorSag === 0);
  const at = viewer.toCanvas(viewer.slices.screenSlices[number], number).transformPoint({ x, y });
  const gl = viewer.slices.gl, pixel = new Uint8Array(4);
  gl.readPixels(Math.round(at.x), gl.drawingBufferHeight - 1 - Math.round(at.y), 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
  return pixel[0];
})"""

#: Box, in voxels of the axial slice, of the pixels drawn in a colour: [u0, u1, v0, v1], or null.
LINES_OF = """
((hex) => {
  const wanted = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const number = viewer.slices.screenSlices.findIndex((tile) => tile.axCorSag === 0);
  const tile = viewer.slices.screenSlices[number], back = viewer.toCanvas(tile, number).inverse();
  const [left, top, width, height] = tile.leftTopWidthHeight.map(Math.round);
  const data = viewer.lines.getContext("2d").getImageData(left, top, width, height).data;
  const places = [];
  for (let i = 0; i < width * height; i++) {
    if (data[4 * i + 3] > 200 && wanted.every((value, c) => Math.abs(value - data[4 * i + c]) < 12)) {
      places.push(back.transformPoint({ x: left + (i % width), y: top + Math.floor(i / width) }));
    }
  }
  const range = (key) => [Math.min(...places.map((p) => p[key])), Math.max(...places.map((p) => p[key]))];
  return places.length ? [...range("x"), ...range("y")] : null;
})"""


def lines_of(browser: Browser, organ: str) -> list[float] | None:
    return browser.evaluate(f"{LINES_OF}({colours(LABELS)[organ]!r})")


def box_of(browser: Browser, organ: str) -> list[list[int]]:
    return browser.evaluate(f"viewer.found.reference[{organ!r}].box")


def test_outline_of_one_voxel_is_a_diamond_and_diagonal_voxels_are_apart(browser):
    one = browser.evaluate("traceOutline((u, v) => Number(u === 3 && v === 5), [3, 3], [5, 5])")
    assert [sorted(map(tuple, loop)) for loop in one] == [[(2.5, 5), (3, 4.5), (3, 5.5), (3.5, 5)]]
    two = browser.evaluate("traceOutline((u, v) => Number(u === v && (u === 1 || u === 2)), [1, 2], [1, 2])")
    assert [len(loop) for loop in two] == [4, 4]
    ring = browser.evaluate(
        "traceOutline((u, v) => Number(Math.max(Math.abs(u), Math.abs(v)) === 1), [-1, 1], [-1, 1])"
    )
    assert sorted(len(loop) for loop in ring) == [4, 12], "the hole has an outline of its own"


def test_overview_names_what_needs_a_look(browser):
    browser.evaluate("location.hash = ''")
    text = browser.evaluate("document.getElementById('overview').innerText")
    assert "missed: Eye_L" in text
    assert text.index("case_b") < text.index("case_c") < text.index("case_a")
    assert "88.1 <b> ± 2" in text, "texts are no HTML"
    assert "Mean ± SD over 3 cases. All organs: those every experiment segments." in text


def test_contours_lie_on_the_organ_and_can_be_switched_off(viewer):
    (u0, u1), (v0, v1), _ = box_of(viewer, "Eye_R")
    np.testing.assert_allclose(lines_of(viewer, "Eye_R"), [u0 - 0.5, u1 + 0.5, v0 - 0.5, v1 + 0.5], atol=0.4)
    viewer.press("r")
    assert lines_of(viewer, "Eye_R") is not None, "the prediction is still there"
    viewer.press("p")
    assert lines_of(viewer, "Eye_R") is None
    viewer.press("p")
    viewer.evaluate("toggleOrgan('Eye_R')")
    assert lines_of(viewer, "Eye_R") is None
    assert lines_of(viewer, "Eye_L") is not None


def test_image_and_contours_agree_and_the_modality_switches(viewer):
    (u0, u1), (v0, v1), _ = box_of(viewer, "Eye_R")
    inside = [(u0 + 1, v0 + 1), (u1 - 1, v1 - 1), (u0 + 1, v1 - 1)]
    outside = [(u0 - 2, v0), (u1 + 2, v1), (u0, v1 + 2), (u1, v0 - 2)]

    def greys(places):
        return [viewer.evaluate(f"{GREY_AT}({u}, {v})") for u, v in places]

    assert min(greys(inside)) > 200 > 60 > max(greys(outside)), "bright organ on the CT"
    viewer.press("2")
    assert max(greys(inside)) < 60 < 200 < min(greys(outside)), "dark organ on T1"
    assert viewer.evaluate("document.querySelector('#channels [aria-pressed=true]').textContent") == "T1"


def test_patient_right_is_on_the_left_of_the_picture(viewer, study):
    right, left = (box_of(viewer, organ)[0] for organ in ("Eye_R", "Eye_L"))
    image = sitk.ReadImage(str(study / "labelsTs" / "case_a.nii.gz"))
    array = sitk.GetArrayFromImage(image)
    world_lps = [
        image.TransformContinuousIndexToPhysicalPoint(np.argwhere(array == v).mean(axis=0)[::-1].tolist())[0]
        for v in (LABELS["Eye_R"], LABELS["Eye_L"])
    ]
    assert world_lps[0] < world_lps[1], "LPS: x grows to the left"
    to_canvas = "viewer.toCanvas(viewer.slices.screenSlices[0], 0).transformPoint({x: %d, y: 0}).x"
    assert viewer.evaluate(to_canvas % right[0]) < viewer.evaluate(to_canvas % left[0])


def test_crosshair_goes_to_the_organ_and_the_position_is_the_world_s(viewer, study):
    viewer.evaluate("document.querySelector('[data-organ=OpticChiasm] button').click()")
    x, y, z = viewer.evaluate("viewer.voxel()")
    assert viewer.evaluate("viewer.maps.reference.organs.OpticChiasm").count(
        viewer.evaluate(
            f"viewer.maps.reference.labels[{x} + viewer.header.size[0] * ({y} + viewer.header.size[1] * {z})]"
        )
    )
    ras = viewer.evaluate("viewer.position()")
    image = sitk.ReadImage(str(study / "labelsTs" / "case_a.nii.gz"))
    index = image.TransformPhysicalPointToIndex((-ras[0], -ras[1], ras[2]))
    assert image[index] == LABELS["OpticChiasm"]


def test_wheel_and_arrow_keys_scroll_the_plane_under_the_mouse(viewer):
    z = viewer.evaluate("viewer.voxel()[2]")
    left, top, width, height = viewer.evaluate("viewer.slices.screenSlices[0].leftTopWidthHeight")
    place = left + width / 2, top + height / 2 + viewer.evaluate("$('slices').getBoundingClientRect().top")
    viewer.mouse("mouseMoved", *place)
    viewer.mouse("mouseWheel", *place, deltaX=0, deltaY=100)
    viewer.wait(f"viewer.voxel()[2] !== {z}", timeout_s=10)
    viewer.evaluate("viewer.goTo('Eye_R')")
    viewer.press("ArrowUp")
    assert viewer.evaluate("viewer.voxel()[2]") == z + 1


def test_surfaces_are_there_and_follow_the_switches(viewer):
    def visible():
        return set(viewer.evaluate("viewer.space.meshes.filter((m) => m.visible).map((m) => m.name)"))

    both = {f"{name}:{organ}" for name in ("reference", "ours") for organ in LABELS}
    assert visible() == both
    viewer.press("r")
    assert visible() == {name for name in both if name.startswith("ours")}


def test_next_case_replaces_the_one_before(viewer):
    viewer.press("[")
    viewer.wait("shownCase() && shownCase().name === 'case_c'")
    assert viewer.evaluate("viewer.slices.volumes.length") == 1
    assert viewer.evaluate("viewer.space.meshes.length") == 6
    assert lines_of(viewer, "OpticChiasm") is not None, "it opens at the organ that is worst"
    viewer.press("Escape")
    viewer.wait("document.getElementById('viewer').hidden")
    assert viewer.evaluate("viewer.maps === undefined && viewer.slices.volumes.length === 0"), "nothing is kept"


def test_language_switches_and_is_remembered(browser, page):
    browser.evaluate("location.hash = ''")
    browser.evaluate("document.getElementById('language').click()")
    assert "左眼球" in browser.evaluate("document.getElementById('overview').innerText")
    assert "定位网络未找到任何器官" in browser.evaluate("document.getElementById('cases').innerText")
    assert "Dice 相似系数" in browser.evaluate("document.querySelector('#tables figcaption').innerText")
    assert "3 个病例的均值 ± 标准差。所有器官：每个实验都分割的器官。" in browser.evaluate(
        "document.getElementById('tables').innerText"
    )
    browser.open(page)
    assert browser.evaluate("language") == "zh"
    browser.evaluate("document.getElementById('language').click()")


@pytest.fixture(scope="module")
def two_methods(report, study) -> Path:
    """The page of two experiments. The second has only the cases that went wrong, and took its time."""
    ours = report.experiments[0]
    other = replace(ours, name="atlas", scores=ours.scores.only(["case_b", "case_c"]))
    row = [
        Cell("atlas"),
        Cell(Message("cell_atlases", {"n": 5, "all": 45})),
        *[Cell("-")] * 4,
        Cell("78.3"),
        Cell("-"),
        Cell("2 GB"),
    ]
    costs = Table("costs", Message("title_costs"), tuple(str(n) for n in range(9)), (tuple(row),))
    both = replace(report, experiments=(ours, other), cases=("case_b", "case_c"), tables=(costs,))
    return write_report_page(both, study / "two.html", show_progress=False).path


def test_methods_stand_side_by_side_on_the_cases_that_all_have(two_methods, page):
    assert content(page)["side_by_side"] == [], "one experiment has nothing to stand beside"
    ours, atlas = content(two_methods)["side_by_side"]
    assert (
        ours["cases"]
        == atlas["cases"]
        == {"case_b": pytest.approx(200 / 3, abs=1e-3), "case_c": atlas["cases"]["case_c"]}
    )
    assert (ours["missed"], atlas["missed"]) == (1, 1)
    assert (atlas["weights"]["en"], atlas["seconds"], atlas["memory"]) == ("none: 5 of 45 atlases", "78.3", "2 GB")
    assert "weights" not in ours, "the table of costs has no row of it"


def test_a_click_on_a_method_shows_it(browser, two_methods):
    browser.open(two_methods)
    assert "none: 5 of 45 atlases" in browser.evaluate("document.getElementById('methods').innerText")
    assert browser.evaluate("document.getElementById('chosen').innerText") == "ours"
    browser.evaluate("[...document.querySelectorAll('#methods button')].find((b) => b.textContent === 'atlas').click()")
    assert browser.evaluate("document.getElementById('chosen').innerText") == "atlas"
    assert browser.evaluate("document.getElementById('experiment').value") == "atlas"
    assert browser.evaluate("document.querySelectorAll('#methods tr.chosen').length") == 1
    browser.requests.remove(two_methods.resolve().as_uri())


def test_predictions_alone_can_be_looked_at(browser, study, page):
    alone = view(
        study / "predictions", study / "imagesTs", study / "view.html", viewer_limit_mb=30, show_progress=False
    )
    assert sorted(alone.case_bytes) == ["case_a", "case_b", "case_c"]
    browser.open(alone.path)
    text = browser.evaluate("document.getElementById('overview').innerText")
    assert text.index("case_b") < text.index("case_c") < text.index("case_a")
    assert "DSC" not in text.split("How to read")[0]
    browser.evaluate("goToCase('case_a')")
    browser.wait("shownCase()")
    assert browser.evaluate("document.getElementById('show-reference').hidden")
    assert browser.evaluate("viewer.space.meshes.length") == 3
    browser.requests.remove(alone.path.resolve().as_uri())
    browser.requests[:] = browser.requests[:1]
