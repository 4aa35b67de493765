"""README, CONTRIBUTING, ARCHITECTURE, `docs/` and `results/` against the repository and the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnunet_ext._version import __version__
from nnunet_ext.cli.main import main
from nnunet_ext.files import read_toml

ROOT = Path(__file__).parents[1]
if not (ROOT / "README.md").is_file():
    pytest.skip("the tests do not lie in a checkout", allow_module_level=True)
GLOBS = "README*.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "docs/**/*.md", "results/*.md"
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for pattern in GLOBS for path in ROOT.glob(pattern))


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def first_cells(text: str, pattern: str) -> list[str]:
    """First cells of the rows of tables, where they match as a whole."""
    cells = re.findall(r"^\| (.+?) \|", text, flags=re.MULTILINE)
    return [match[1] for cell in cells if (match := re.fullmatch(pattern, cell))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(document)):
        assert (ROOT / document).parent.joinpath(link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_of_the_repository_are_there(document: str):
    starts = "|".join(("nnunet_ext", "dataset_conversion", "trainers", "plans", "tests", "docs", "results"))
    for path in re.findall(rf"`((?:{starts})/[\w./-]*)`", read(document)):
        if not path.startswith("results/Dataset"):  # a folder of nnU-Net
            assert (ROOT / path).exists(), path


def test_both_readmes_list_the_verbs_of_the_command_line(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    verbs = re.findall(r"^ {4}([a-z][\w-]*)", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(verbs) > 10
    for readme in ("README.md", "README.zh.md"):
        assert sorted(first_cells(read(readme), r"`nnunet_ext ([\w-]+)`")) == sorted(verbs)


def test_every_change_is_a_matter_of_one_to_three_files():
    section = read("CONTRIBUTING.md").partition("## Where do I change")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 25
    for change, files in rows:
        assert 1 <= len(re.findall(r"`[\w./]+/[\w.]*`", files)) <= 3, change


def test_the_citation_names_the_version():
    assert f"version: {__version__}\n" in read("CITATION.cff")


def test_architecture_has_the_packages_and_the_floors():
    text = read("ARCHITECTURE.md")
    packages = {path.parent.name for path in ROOT.glob("nnunet_ext/*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/ ", text, flags=re.MULTILINE)) == packages
    floors = read_toml(ROOT / "pyproject.toml", called="pyproject.toml")["tool"]["importlinter"]["contracts"][0]
    assert "```\n" + "\n".join(floors["layers"]) + "\n```" in text
