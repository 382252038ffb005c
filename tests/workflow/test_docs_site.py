"""The documentation site: every page is built, and a browser shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import document
from commands import REPOSITORY

pytestmark = pytest.mark.stories

MKDOCS = REPOSITORY / ".venv-tools" / "bin" / "mkdocs"


def gathered(folder: Path) -> None:
    command = [sys.executable, REPOSITORY / "tools" / "docs_site.py", "--folder", folder]
    subprocess.run(command, check=True, cwd=REPOSITORY, timeout=120)


def built(pages: Path, site: Path) -> subprocess.CompletedProcess[str]:
    if not MKDOCS.exists():
        pytest.fail("the documentation's generator is missing; run `make tools`")
    configuration = site.with_suffix(".yml")
    text = (REPOSITORY / "mkdocs.yml").read_text()
    text = text.replace("build/docs", str(pages)).replace("build/site", str(site))
    configuration.write_text(text.replace("paths: [src]", f"paths: [{REPOSITORY / 'src'}]"))
    command = [MKDOCS, "build", "--strict", "--config-file", configuration]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    gathered(folder / "pages")
    process = built(folder / "pages", folder / "site")
    assert process.returncode == 0, process.stderr
    return folder / "site"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("index.html", "still say"),
        ("docs/results/index.html", "Verdict"),
        ("docs/configuration.html", "validation_fraction"),
        ("docs/library/methods.html", "AsymmetricDistillation"),
        ("docs/library/recognition.html", "OpenSetClassifier"),
    ],
)
def test_a_browser_shows_the_page(site, tmp_path, page, words):
    text = re.sub(r"<[^>]+>", "", document((site / page).as_uri(), tmp_path / "profile"))
    assert words in text
    assert ":::" not in text  # the generator knew the name


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert not [address for address in loaded if "canonical" not in address], page


def test_a_broken_link_stops_the_build(tmp_path):
    gathered(tmp_path / "pages")
    page = tmp_path / "pages" / "docs" / "usage.md"
    page.write_text(page.read_text() + "\n[gone](gone.md)\n")
    process = built(tmp_path / "pages", tmp_path / "site")
    assert process.returncode != 0
    assert "gone.md" in process.stderr


def test_an_earlier_copy_is_replaced_and_a_strange_folder_is_not(tmp_path):
    gathered(tmp_path / "pages")
    (tmp_path / "pages" / "old.md").write_text("old")
    gathered(tmp_path / "pages")
    assert not (tmp_path / "pages" / "old.md").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    command = [sys.executable, REPOSITORY / "tools" / "docs_site.py", "--folder", tmp_path / "mine"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert process.returncode != 0
    assert len(process.stderr.splitlines()) == 1
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
