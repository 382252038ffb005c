"""`openset predict`: images from everywhere, answers in every form, and what happens to those that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from browser import document

from openset_distill import OpenSetClassifier
from openset_distill.recognition.description import DESCRIPTION


@pytest.fixture
def few(pictures: Path, tmp_path: Path) -> Path:
    """A folder with six knowns in class folders and four others, and files that are no images."""
    folder = tmp_path / "few"
    for path in [*sorted((pictures / "known").glob("*/*.png"))[:60:10], *sorted((pictures / "unknown").iterdir())[:4]]:
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "small.png").write_text("no image")
    return folder


def lines(process: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_every_source_gives_the_same_answers(packaged, few, openset, tmp_path):
    files = sorted(path for path in few.rglob("*.png") if "@eaDir" not in str(path) and path.name[0] != ".")
    with zipfile.ZipFile(tmp_path / "few.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(few))
    with tarfile.open(tmp_path / "few.tar.gz", "w:gz") as archive:
        for path in files:
            archive.add(path, path.relative_to(few).as_posix())
    expected = dict(zip(map(str, files), OpenSetClassifier.load(packaged).predict(files), strict=True))
    named = "\n".join(map(str, files)) + "\n"
    for words, given in (
        ([few], ""),
        (files, None),
        ([few / "**" / "[!.]*.png"], ""),
        ([tmp_path / "few.zip"], ""),
        ([tmp_path / "few.tar.gz"], ""),
        (["-"], named),
        (["-"], named.replace("\n", "\0")),
    ):
        process = openset("predict", packaged, *words, "--jsonl", input=given or "")
        assert process.returncode == 0, process.stderr
        answers = {line["file"]: line["verdict"] for line in lines(process)}
        found = {str(few) + "/" + re.sub(r".*few(\.zip|\.tar\.gz)?/", "", name): word for name, word in answers.items()}
        assert {name: word for name, word in found.items() if "@eaDir" not in name} == expected, words


def test_the_command_as_a_process_of_its_own(packaged, few):
    command = [sys.executable, "-c", "from openset_distill.cli import main; main()", "predict", packaged, few, "--json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0 and len(json.loads(process.stdout)) == 10, process.stderr


def test_every_form_says_the_same(packaged, few, openset, tmp_path):
    by_line = lines(openset("predict", packaged, few, "--jsonl"))
    assert json.loads(openset("predict", packaged, few, "--json").stdout) == by_line
    rows = list(csv.DictReader(io.StringIO(openset("predict", packaged, few, "--csv").stdout)))
    for row, one in zip(rows, by_line, strict=True):
        assert (row["file"], row["verdict"], row["predicted"]) == (one["file"], one["verdict"], one["predicted"])
        assert float(row["score"]) == one["score"]
        assert float(row["threshold"]) == one["threshold"]
        assert row["rejected"] == str(one["rejected"]).lower() == str(one["score"] < one["threshold"]).lower()
        assert one["answer"] == row["answer"] == one["verdict"], "the old name stays for one release"
        assert one["verdict"] == ("unknown" if one["rejected"] else one["top"][0]["class"])
        assert float(row["probability_1"]) == pytest.approx(one["top"][0]["probability"], abs=1e-6)
        assert [entry["probability"] for entry in one["top"]] == sorted(
            (entry["probability"] for entry in one["top"]), reverse=True
        )
    table = openset("predict", packaged, few, "--top", 1)
    assert "10 images: " in table.stderr
    assert "95 % of knowns accepted" in table.stderr
    for line, one in zip(table.stdout.splitlines()[1:], by_line, strict=True):
        assert line.split()[0] == one["verdict"]
        assert line.endswith(one["file"])
    openset("predict", packaged, few, "--csv", "--out", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == openset("predict", packaged, few, "--csv").stdout


def test_another_operating_point(packaged, pictures, few, openset, refused, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(packaged, copy)
    model = OpenSetClassifier.load(copy)
    _, loose, false = model.calibrate(pictures / "known", pictures / "unknown", accept=[0.5, 0.99], false_accept=[0.2])
    model.save_description(copy)
    for option, rate, point in (("--accept", 0.99, loose), ("--false-accept", 0.2, false)):
        process = openset("predict", copy, few, "--jsonl", option, rate)
        assert {line["threshold"] for line in lines(process)} == {point.threshold}
    assert "not calibrated for --accept 0.7" in refused("predict", copy, few, "--accept", "0.7")


def test_images_that_cannot_be_read_are_a_line_each_and_do_not_stop_the_rest(packaged, few, openset, tmp_path):
    broken = few / "broken.png"
    broken.write_bytes(next(few.rglob("*.png")).read_bytes()[:40])
    (few / "empty.jpg").write_bytes(b"")
    process = openset("predict", packaged, few, tmp_path / "nowhere.png", tmp_path / "*.gif", "--jsonl")
    assert process.returncode == 2
    *failed, summary, last = process.stderr.splitlines()
    assert len(failed) == 4
    assert all(line.startswith("failed: ") for line in failed)
    for name in ("broken.png", "empty.jpg", "nowhere.png", "*.gif"):
        assert sum(name in line for line in failed) == 1
    assert "10 images" in summary
    assert "4 could not be read" in summary
    assert last.startswith("error: 4 of 14 images")
    answers = lines(process)
    assert sum("verdict" in line for line in answers) == 10
    assert sum("error" in line for line in answers) == 4
    rows = list(csv.DictReader(io.StringIO(openset("predict", packaged, few, "--csv").stdout)))
    assert sum(bool(row["error"]) for row in rows) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_a_line(packaged, few, openset):
    (few / "closed").mkdir(mode=0)
    process = openset("predict", packaged, few, "--jsonl")
    assert process.returncode == 2
    assert "closed cannot be read" in process.stderr


def test_a_damaged_archive_is_a_line(packaged, few, openset, tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and nothing more")
    process = openset("predict", packaged, tmp_path / "bad.zip", few, "--jsonl")
    assert process.returncode == 2
    assert sum("verdict" in line for line in lines(process)) == 10
    assert "bad.zip" in process.stderr
    assert "Traceback" not in process.stderr


def test_links_are_followed_and_loops_end(packaged, few, openset, tmp_path):
    around = tmp_path / "around"
    around.mkdir()
    (around / "there").symlink_to(few, target_is_directory=True)
    (few / "back").symlink_to(around, target_is_directory=True)
    process = openset("predict", packaged, around, "--jsonl")
    assert len(lines(process)) == 10


def test_names_that_are_no_utf_8(packaged, few, openset):
    odd = os.fsencode(few) + b"/caf\xe9.png"
    shutil.copy(next(few.rglob("0*.png")), odd)
    process = openset("predict", packaged, few)
    assert process.returncode == 0 and "caf\\xe9.png" in process.stdout, process.stderr
    [line] = [line for line in lines(openset("predict", packaged, few, "--jsonl")) if "caf" in line["file"]]
    assert os.fsencode(line["file"]) == odd


def test_an_empty_list(packaged, refused, openset, tmp_path):
    assert "list of paths is empty" in refused("predict", packaged, "-", "--jsonl", input="")
    process = openset("predict", packaged, tmp_path, "--json", "--out", tmp_path / "out.json")
    assert process.returncode == 2
    assert "has no images" in process.stderr


def test_mistakes(packaged, few, refused, tmp_path):
    assert "no model folder" in refused("predict", few, few)
    assert "give at least 1" in refused("predict", packaged, few, "--top", 0)
    uncalibrated = tmp_path / "model"
    shutil.copytree(packaged, uncalibrated)
    plain = json.loads((uncalibrated / DESCRIPTION).read_text())
    (uncalibrated / DESCRIPTION).write_text(json.dumps(plain | {"operating_points": {}}))
    assert "openset calibrate" in refused("predict", uncalibrated, few)
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("predict", packaged, few, "--csv", "--out", tmp_path / "file" / "out.csv")


def test_what_waits_does_not_grow_with_the_number_of_images(packaged, few):
    """The sources of a long list are asked for only as images are answered."""
    model = OpenSetClassifier.load(packaged)
    from openset_distill.recognition.images import find_images

    asked = 0
    path = next(few.rglob("0*.png"))

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield path

    stream = model.stream(find_images(endless()))
    answered = sum(len(next(stream).names) for _ in range(3))
    stream.close()
    assert answered > 0
    assert asked <= answered + 2 * 128


# --------------------------------------------------------------------------------------------------- the gallery


@pytest.fixture
def page(packaged, few, openset, tmp_path) -> Path:
    (few / "<img src=x onerror=alert(1)>.png").write_bytes(b"no image")
    process = openset("predict", packaged, few, "--gallery", tmp_path / "out.html")
    assert process.returncode == 2, process.stderr
    return tmp_path / "out.html"


def test_the_gallery_is_one_page_that_loads_nothing(page):
    text = page.read_text()
    assert text.count("<figure ") == 10 == text.count('src="data:image/jpeg;base64,')
    assert "http://" not in text
    assert "https://" not in text
    assert "<link" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text


def test_a_browser_sorts_and_filters_the_gallery(page, packaged, few, tmp_path):
    predictions = OpenSetClassifier.load(packaged).predictions(
        [path for path in sorted(few.rglob("0*.png")) if "@eaDir" not in str(path)]
    )

    def shown(address: str) -> list[tuple[bool, float]]:
        text = document(f"{page.as_uri()}{address}", tmp_path / "profile", "--virtual-time-budget=3000")
        figures = re.findall(r"<figure ([^>]*)>", text)
        assert len(figures) == 10
        visible = [attributes for attributes in figures if "hidden" not in attributes.split("data-label")[1]]
        assert f"{len(visible)} of 10 images" in text
        return [
            (re.search(r'data-rejected="(\d)"', one)[1] == "1", float(re.search(r'data-score="([^"]+)"', one)[1]))
            for one in visible
        ]

    scores = sorted(prediction.score for prediction in predictions)
    assert [score for _, score in shown("#show=all&sort=low")] == scores
    rejected = sorted((one.score for one in predictions if one.rejected), reverse=True)
    assert shown("#show=unknown&sort=high") == [(True, score) for score in rejected]
    threshold = predictions[0].threshold
    nearest = sorted((one for one in predictions if not one.rejected), key=lambda one: one.score - threshold)
    assert shown("#show=known&sort=threshold") == [(False, one.score) for one in nearest]
    first = next(one for one in predictions if not one.rejected).predicted
    number = list(OpenSetClassifier.load(packaged).description.classes).index(first)
    expected = [one.score for one in predictions if not one.rejected and one.predicted == first]
    assert [score for _, score in shown(f"#show=class:{number}")] == expected
    assert np.isfinite(scores).all()
