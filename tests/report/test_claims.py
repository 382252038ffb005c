"""Claims: the verdict at its borders, joined class sets, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic_tables
import yaml
from commands import REPOSITORY
from scipy import stats

from openset_distill.core.errors import DataError, OpenSetError, SettingsError
from openset_distill.report.claims import judge, read_claims, verdict, with_accuracy
from openset_distill.report.claims_figure import draw
from openset_distill.report.claims_output import EARLIER_MARKS, PAGE_MARKS, put_into_page, to_runs, write

CONFIRMED, CONTRADICTED = "confirmed", "contradicted"
NO_DIFFERENCE, UNDECIDED = "no difference within the margin", "undecided"
NAN = math.nan


@pytest.mark.parametrize(
    ("expected", "low", "high", "said"),
    [
        # the borders of the margin belong to it
        ("higher", -1.0, 1.0, NO_DIFFERENCE),
        ("higher", 0.2, 1.0, NO_DIFFERENCE),
        ("higher", 0.2, 1.0001, CONFIRMED),
        ("higher", 0.0, 1.5, UNDECIDED),
        ("higher", 1e-6, 1.5, CONFIRMED),
        ("higher", -1.5, 0.0, UNDECIDED),
        ("higher", -1.5, -1e-6, CONTRADICTED),
        ("higher", -1.0001, 1.0, UNDECIDED),
        ("higher", -1.0, 1.0 + 1e-12, NO_DIFFERENCE),  # up to rounding
        ("lower", -1.5, -0.1, CONFIRMED),
        ("lower", 0.1, 1.5, CONTRADICTED),
        ("lower", -0.9, -0.1, NO_DIFFERENCE),
        ("lower", -1.5, 0.0, UNDECIDED),
        ("same", -1.0, 1.0, CONFIRMED),
        ("same", -1.1, 0.5, UNDECIDED),
        ("same", 1.0, 3.0, UNDECIDED),
        ("same", 1.1, 3.0, CONTRADICTED),
        ("same", -3.0, -1.1, CONTRADICTED),
        ("not_lower", -1.0, 9.0, CONFIRMED),
        ("not_lower", -1.1, 9.0, UNDECIDED),
        ("not_lower", -9.0, -1.0, UNDECIDED),
        ("not_lower", -9.0, -1.1, CONTRADICTED),
        *((expected, NAN, NAN, UNDECIDED) for expected in ("higher", "lower", "same", "not_lower")),
    ],
)
def test_a_verdict_follows_from_interval_and_margin(expected, low, high, said):
    assert verdict(expected, low, high, 1.0) == said


@pytest.mark.parametrize(
    ("of_outcome", "of_accuracy", "said"),
    [
        (CONFIRMED, CONFIRMED, CONFIRMED),
        (CONFIRMED, UNDECIDED, UNDECIDED),
        (CONFIRMED, CONTRADICTED, CONTRADICTED),
        (CONTRADICTED, UNDECIDED, CONTRADICTED),
        (NO_DIFFERENCE, UNDECIDED, NO_DIFFERENCE),
        (NO_DIFFERENCE, CONTRADICTED, CONTRADICTED),
        (UNDECIDED, CONFIRMED, UNDECIDED),
    ],
)
def test_a_winner_must_keep_its_accuracy(of_outcome, of_accuracy, said):
    assert with_accuracy(of_outcome, of_accuracy) == said


# ------------------------------------------------------------------------------------------------- results

PLAIN = {"method": {"name": "cross_entropy"}, "augment": {"multi": None}, "optimization": {"epochs": 5}}
SETTINGS = {"ce": PLAIN, "cutmix": PLAIN | {"augment": {"multi": {"name": "cutmix"}}}}
RUNS = {"ce": {"method": "cross_entropy", "augment": {"multi": None}}, "cutmix": {"augment": {"multi": "cutmix"}}}


def results(folder: Path, *, dataset: str = "digits", live: bool = False, sets: str = "", **made) -> str:
    """The kept results of an invented experiment, or, `live`, those that the workflow leaves."""
    tables = synthetic_tables.make(runs=tuple(SETTINGS), **made)
    runs = tables["runs"].assign(dataset=dataset, protocol="random")
    if "class_set" not in runs:
        runs["class_set"] = [f"{sets}{split}" for split in runs["split"]]
    synthetic_tables.write(folder / "tidy", {"runs": runs})
    records = {}
    for split, seed in runs[["split", "seed"]].drop_duplicates().itertuples(index=False):
        for run, settings in SETTINGS.items():
            unit = {"experiment": folder.name, "split": int(split), "seed": int(seed), "run": run}
            records[f"split{split}/seed{seed}/{run}"] = {"settings": {**unit, **settings}}
    if live:
        for name, record in records.items():
            (folder / name).mkdir(parents=True)
            (folder / name / "config.json").write_text(json.dumps(record["settings"]))
    else:
        (folder / "provenance.json").write_text(json.dumps(records))
    return str(folder)


def claims_file(path: Path, folders: list, claims: list[dict] | None = None, **changes) -> Path:
    content = {
        "scores": ["maximum_logit", "msp"],
        "margin": 1.0,
        "accuracy_loss": 0.5,
        "baseline": "ce",
        "data": {"Digits": {"folders": folders, "settings": {"optimization": {"epochs": 5}}}},
        "runs": RUNS,
        "claims": claims or [{"claim": "Mixing costs", "run": "cutmix", "against": "ce", "expected": "lower"}],
        **changes,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_folders_are_joined_over_their_distinct_class_sets(tmp_path):
    """Two experiments; a class set of the second is one of the first, and a split was looked at before."""
    first = results(tmp_path / "first", sets="a", splits=3)
    second = results(tmp_path / "second", sets="b", splits=4, seeds=2, live=True)
    path = tmp_path / "second" / "tidy" / "runs.csv"
    table = pd.read_csv(path, dtype={"score": str}, keep_default_na=False)
    table["class_set"] = table["class_set"].replace("b1", "a2")
    table.to_csv(path, index=False)
    file = claims_file(tmp_path / "claims.yaml", [first, {"folder": second, "leave_out": [0]}])
    judged, _ = judge(read_claims(file))
    by_score = {one.score: one for one in judged}
    assert list(by_score) == ["maximum_logit", "msp"]
    assert [one.decides for one in judged] == [True, False]
    found = by_score["maximum_logit"].found
    assert (found.n, found.pairs) == (5, 9)  # a0, a1, a2 (1 + 2 units), b2, b3

    gains: dict[str, list[float]] = {}
    for folder, without in ((first, []), (second, [0])):
        runs = pd.read_csv(Path(folder) / "tidy" / "runs.csv", keep_default_na=False)
        runs = runs[~runs["split"].isin(without)].query("metric == 'auroc' and score == 'maximum_logit'")
        runs = runs.query("sampling == 'full' and group == 'all'")
        wide = runs.pivot(index=["class_set", "split", "seed"], columns="run", values="value")
        for (name, *_), gain in (100 * (wide["cutmix"] - wide["ce"])).items():
            gains.setdefault(name, []).append(gain)
    means = [np.mean(values) for values in gains.values()]
    assert (found.low, found.high) == pytest.approx(tuple(stats.ttest_1samp(means, 0).confidence_interval(0.95)))
    assert by_score["maximum_logit"].verdict == CONFIRMED


def test_what_one_score_has_over_another_can_be_the_outcome(tmp_path):
    claim = {"claim": "Takes away", "run": "cutmix", "against": "ce", "expected": "same", "less": "msp"}
    more = {"claim": "Accuracy", "run": "cutmix", "against": "ce", "expected": "higher", "outcome": "accuracy"}
    file = claims_file(tmp_path / "c.yaml", [results(tmp_path / "one")], [claim, more | {"margin": 0}])
    judged, _ = judge(read_claims(file))
    assert [(one.claim.claim, one.score) for one in judged] == [("Takes away", "maximum_logit"), ("Accuracy", "")]
    # the invented scores differ by a constant, in both runs
    assert judged[0].found.difference == pytest.approx(0, abs=1e-9)
    assert judged[0].verdict == CONFIRMED
    assert judged[1].found.difference == pytest.approx(2.3, abs=1)


def test_several_runs_are_averaged_within_a_class_set(tmp_path):
    folder = results(tmp_path / "one", seeds=2)
    path = tmp_path / "one" / "tidy" / "runs.csv"
    runs = pd.read_csv(path, dtype={"score": str}, keep_default_na=False)
    third = runs[runs["run"] == "cutmix"].assign(run="mixup")
    third["value"] -= 0.02
    synthetic_tables.write(tmp_path / "one" / "tidy", {"runs": pd.concat([runs, third])})
    records = json.loads((tmp_path / "one" / "provenance.json").read_text())
    records |= {name.replace("cutmix", "mixup"): record for name, record in records.items() if "cutmix" in name}
    (tmp_path / "one" / "provenance.json").write_text(json.dumps(records))
    plain = {"claim": "One", "run": "cutmix", "against": "ce", "expected": "higher"}
    family = {"claim": "Family", "run": ["cutmix", "mixup"], "against": "ce", "expected": "higher"}
    less = {"claim": "Less", "run": "ce", "against": ["cutmix", "mixup"], "expected": "same", "less": "msp"}
    described = {**RUNS, "mixup": {"method": "cross_entropy"}}
    claims = read_claims(claims_file(tmp_path / "c.yaml", [folder], [plain, family, less], runs=described))
    judged, _ = write(claims, tmp_path / "c.csv", tmp_path / "c.md")
    found = {one.claim.claim: one.found for one in judged if one.decides}
    assert found["Family"].difference == pytest.approx(found["One"].difference - 1)
    assert (found["Family"].n, found["Family"].pairs) == (5, 10)
    assert found["Less"].difference == pytest.approx(0, abs=1e-9)  # the invented scores differ by a constant
    assert "AUROC of the mean of cutmix and mixup higher than of ce" in (tmp_path / "c.md").read_text()
    with open(tmp_path / "c.csv", newline="") as stream:
        assert {row["run"] for row in csv.DictReader(stream)} == {"cutmix", "cutmix + mixup", "ce"}


@pytest.mark.parametrize(
    ("made", "change", "message"),
    [
        ({"splits": 3, "twins": (0, 1, 2)}, {}, "the splits 0, 1 and 2 of Digits have the same classes, so"),
        ({}, {"runs": {"ce": {"method": "arpl"}, "cutmix": {}}}, r"'ce': method is 'cross_entropy', .* names 'arpl'"),
        ({}, {"runs": {"ce": {"optimization": {"epochs": 200}}, "cutmix": {}}}, r"epochs is 5, .* names 200"),
        ({}, {"runs": {"ce": {"compile": True}, "cutmix": {}}}, r"compile is 'nothing', .* names True"),
        (
            {},
            {"data": {"Digits": {"folders": ["one"], "runs": {"ce": {"optimization": {"epochs": 7}}}}}},
            r"'ce': optimization\.epochs is 5, .* names 7",
        ),
        ({}, {"scores": ["energy", "knn"]}, "have no auroc of the score 'knn' of the run 'cutmix' for split 0"),
    ],
)
def test_results_of_another_kind_are_refused(tmp_path, made, change, message):
    folder = results(tmp_path / "one", **made)
    for evidence in change.get("data", {}).values():
        evidence["folders"] = [folder]
    file = claims_file(tmp_path / "claims.yaml", [folder], **change)
    with pytest.raises(DataError, match=message):
        judge(read_claims(file))


@pytest.mark.parametrize(("precision", "joined"), [("bfloat16", True), ("auto", True), ("float32", False)])
def test_runs_of_two_precisions_are_not_joined(tmp_path, precision, joined):
    folders = [results(tmp_path / name, sets=name) for name in ("one", "two")]
    for folder, said in zip(folders, ("bfloat16", precision), strict=True):
        path = Path(folder, "provenance.json")
        records = json.loads(path.read_text())
        for record in records.values():
            record["settings"]["optimization"] = {"epochs": 5, "precision": said}
        path.write_text(json.dumps(records))
    claims = read_claims(claims_file(tmp_path / "claims.yaml", folders))
    if joined:
        assert judge(claims)[0][0].found.n == 2 * 5
    else:
        with pytest.raises(DataError, match=r"optimization\.precision differs"):
            judge(claims)


def test_margins_and_the_rule_of_each_expectation_are_printed(tmp_path):
    folder = results(tmp_path / "one")
    plain = {"claim": "Costs", "run": "cutmix", "against": "ce", "expected": "lower"}
    kept = {"claim": "Kept", "run": "cutmix", "against": "ce", "outcome": "accuracy", "expected": "not_lower"}
    file = claims_file(tmp_path / "c.yaml", [folder], [plain, kept | {"margin": 0.5}])
    write(read_claims(file), tmp_path / "c.csv", tmp_path / "c.md")
    text = (tmp_path / "c.md").read_text()
    assert "not lower than of ce, margin 0.5" in text
    assert "lower than of ce |" in text
    assert 'A claim of "not lower": confirmed by' in text
    assert 'A claim of "the same"' not in text
    with open(tmp_path / "c.csv", newline="") as stream:
        assert {(row["claim"], row["margin"]) for row in csv.DictReader(stream)} == {("Costs", "1"), ("Kept", "0.5")}


def test_one_class_set_without_twins_has_no_interval_and_decides_nothing(tmp_path):
    folder = results(tmp_path / "one", splits=1, seeds=3)
    judged, _ = write(read_claims(claims_file(tmp_path / "c.yaml", [folder])), tmp_path / "c.csv", tmp_path / "c.md")
    assert {one.verdict for one in judged} == {UNDECIDED}
    assert judged[0].found.n == 1
    assert "[" not in (tmp_path / "c.md").read_text()
    with open(tmp_path / "c.csv", newline="") as stream:
        assert {row["low"] for row in csv.DictReader(stream)} == {""}


def test_missing_runs_and_mixed_results_are_refused(tmp_path):
    one, other = results(tmp_path / "one", sets="a"), results(tmp_path / "other", sets="b")
    claim = {"claim": "KD", "run": "kd", "against": "ce", "expected": "higher"}
    runs = {"ce": {}, "kd": {}, "cutmix": {}}
    with pytest.raises(DataError, match="have no run 'kd', which the claim 'KD' compares"):
        judge(read_claims(claims_file(tmp_path / "c.yaml", [one], [claim], runs=runs)))
    part = [{"folder": one, "runs": ["ce", "cutmix"]}]
    with pytest.raises(DataError, match="no results on Digits hold all of ce and kd, which the claim 'KD' compares"):
        judge(read_claims(claims_file(tmp_path / "c.yaml", part, [claim], runs=runs)))
    file = claims_file(tmp_path / "c.yaml", [one, other])
    assert judge(read_claims(file))[0][0].found.n == 10
    # a folder whose runs were trained otherwise than those of the other
    records = json.loads((tmp_path / "other" / "provenance.json").read_text())
    records["split3/seed0/cutmix"]["settings"]["augment"]["multi"]["alpha"] = 0.2
    (tmp_path / "other" / "provenance.json").write_text(json.dumps(records))
    with pytest.raises(
        DataError, match=r"other, split 3, seed 0, run 'cutmix': augment\.multi\.alpha differs from .*one"
    ):
        judge(read_claims(file))
    del records["split3/seed0/cutmix"]
    (tmp_path / "other" / "provenance.json").write_text(json.dumps(records))
    with pytest.raises(DataError, match=r"lacks split3/seed0/cutmix; keep the results again"):
        judge(read_claims(file))
    # a run that is not there for every split
    path = tmp_path / "one" / "tidy" / "runs.csv"
    lines = [line for line in path.read_text().splitlines(keepends=True) if ",4,0,cutmix," not in line]
    path.write_text("".join(lines))
    with pytest.raises(DataError, match="of the run 'cutmix' for split 4 and seed 0; evaluate it"):
        judge(read_claims(claims_file(tmp_path / "c.yaml", [one])))
    # tables from before class sets had names: two experiments may have the same classes in splits of one number
    path = tmp_path / "other" / "tidy" / "runs.csv"
    pd.read_csv(path, keep_default_na=False).drop(columns="class_set").to_csv(path, index=False)
    with pytest.raises(DataError, match=r"other is from before class sets had names, .* make them again"):
        judge(read_claims(claims_file(tmp_path / "c.yaml", [one, other])))
    elsewhere = results(tmp_path / "cifar", dataset="cifar10")
    with pytest.raises(
        DataError, match=r"join results on different datasets \(.*one is of digits; .*cifar is of cifar10"
    ):
        judge(read_claims(claims_file(tmp_path / "c.yaml", [one, elsewhere])))
    with pytest.raises(SettingsError, match=r"name the folder .* twice"):
        judge(read_claims(claims_file(tmp_path / "c.yaml", [one, one])))
    with pytest.raises(DataError, match="the table runs is missing at"):
        judge(read_claims(claims_file(tmp_path / "c.yaml", [str(tmp_path / "nowhere")])))
    with pytest.raises(DataError, match="no split that is not left out"):
        judge(read_claims(claims_file(tmp_path / "c.yaml", [{"folder": other, "leave_out": [0, 1, 2, 3, 4]}])))


GOOD = {"claim": "C", "run": "cutmix", "against": "ce", "expected": "lower"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margins": 1}, "margins"),
        ({"margin": -1}, "margin: .*greater"),
        ({"margin": float("nan")}, "margin"),
        ({"scores": []}, "scores"),
        ({"scores": ["mps"]}, "no score 'mps'; did you mean 'msp'"),
        ({"claims": [GOOD | {"run": "cutmx"}]}, r"claim 1 \(C\): there is no run 'cutmx'; did you mean 'cutmix'"),
        ({"claims": [GOOD | {"data": ["Digit"]}]}, "no data 'Digit'; did you mean 'Digits'"),
        ({"claims": [GOOD | {"outcome": "aucroc"}]}, "no outcome 'aucroc'; did you mean 'auroc'"),
        ({"claims": [GOOD | {"against": "cutmix"}]}, "compares 'cutmix' with itself"),
        ({"claims": [GOOD | {"against": ["ce", "cutmix"]}]}, "compares 'cutmix' with itself"),
        ({"claims": [GOOD | {"against": ["ce", "ce"]}]}, "averages 'ce' twice"),
        ({"claims": [GOOD | {"against": []}]}, r"claims\.0\.against: .*at least 1 item"),
        ({"claims": [GOOD | {"against": ["ce", "arpl"]}]}, "there is no run 'arpl'"),
        ({"claims": [GOOD, GOOD | {"expected": "same"}]}, "claim 2 .*has the words of another claim on Digits"),
        ({"data": {"D": {"folders": ["a"], "runs": {"cx": {}}}}}, r"data\.D\.runs: there is no run 'cx'"),
        ({"claims": [GOOD | {"expected": "better"}]}, r"claims\.0\.expected: "),
        ({"claims": [GOOD | {"outcome": "accuracy", "less": "msp"}]}, "accuracy has no score"),
    ],
)
def test_a_wrong_file_of_claims_is_one_clear_error(tmp_path, change, message):
    with pytest.raises(SettingsError, match=message) as caught:
        read_claims(claims_file(tmp_path / "claims.yaml", ["one"], **change))
    assert "\n" not in str(caught.value)


def test_the_file_of_claims_must_be_there(tmp_path):
    with pytest.raises(OpenSetError, match=r"claims\.yaml"):
        read_claims(tmp_path / "claims.yaml")
    (tmp_path / "claims.yaml").write_text("[1]\n")
    with pytest.raises(SettingsError, match="must hold a mapping"):
        read_claims(tmp_path / "claims.yaml")


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "tools/claims.py", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=REPOSITORY)


def test_the_kept_claims_are_what_the_documented_command_makes(tmp_path):
    """Byte for byte, from the kept results: claims.csv, claims.md and the figure cannot say anything else."""
    kept = REPOSITORY / "docs" / "results"
    shutil.copyfile(kept / "README.md", tmp_path / "c.page")
    files = ("--csv", tmp_path / "c.csv", "--markdown", tmp_path / "c.md", "--page", tmp_path / "c.page")
    done = command("--claims", "docs/results/claims.yaml", *files, "--figure", tmp_path / "c.png")
    assert done.returncode == 0, done.stderr
    for made, name in (
        ("c.csv", "claims.csv"),
        ("c.md", "claims.md"),
        ("c.page", "README.md"),
        ("c.png", "claims.png"),
    ):
        assert (tmp_path / made).read_bytes() == (kept / name).read_bytes(), f"make {name} again: tools/claims.py"
    with open(kept / "claims.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    # splits 0 and 1 of CIFAR-10 have the same classes: three splits, two class sets
    assert {row["n"] for row in rows if row["data"] == "CIFAR-10, small ResNets"} == {"2"}
    assert "splits 0 and 1 have the same classes" in (kept / "claims.md").read_text()
    page = (kept / "README.md").read_text()
    assert "tools/claims.py" in page
    assert "claims.md" in page


def test_the_table_goes_into_the_marked_part_of_a_page():
    begin, end = PAGE_MARKS
    page = f"above\n{begin}\nold\n{end}\nbelow\n"
    once = put_into_page(page, "| new |")
    assert once == f"above\n{begin}\n\n| new |\n\n{end}\nbelow\n"
    assert put_into_page(once, "| new |") == once
    for wrong in ("", begin, end, f"{end}{begin}", f"{page}{page}"):
        with pytest.raises(DataError, match="no place for the claims"):
            put_into_page(wrong, "| new |")


def test_the_figure_draws_each_verdict_and_interval(tmp_path):
    claims = read_claims(claims_file(tmp_path / "claims.yaml", [results(tmp_path / "one")]))
    judged, found = judge(claims)
    figure = draw(judged, claims, found)
    (axes,) = figure.axes
    deciding = [one for one in judged if one.decides]
    lines = [line.get_xdata() for line in axes.lines]
    for one in deciding:
        assert any(list(map(float, line)) == [one.found.low, one.found.high] for line in lines)
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {one.verdict for one in deciding}
    with pytest.raises(DataError, match=r"of earlier studies, .*leave out --figure"):
        draw(judged, claims, {})


def test_a_very_wide_interval_is_cut_at_an_arrow_and_an_empty_cell_says_not_run(tmp_path):
    claims = read_claims(claims_file(tmp_path / "claims.yaml", [results(tmp_path / "one")]))
    judged, found = judge(claims)
    wide = next(one for one in judged if one.decides)
    others = [one for one in judged if one.claim is not wide.claim]
    reach = 2 * max(abs(each.difference) for one in judged if one.decides for each in (one.found, one.accuracy) if each)
    wide = dataclasses.replace(wide, found=dataclasses.replace(wide.found, low=-5 * reach, high=reach / 2))
    figure = draw([wide, *others], claims, found | {"another": next(iter(found.values()))})
    axes, another = figure.axes
    assert [-reach, reach / 2] in [list(map(float, line.get_xdata())) for line in axes.lines]
    assert [line.get_marker() for line in axes.lines if list(line.get_xdata()) == [-reach]] == ["<"]
    assert "Arrow: the interval extends further." in " ".join(text.get_text() for text in figure.texts).replace(
        "\n", " "
    )
    assert len(another.texts) == len({id(one.claim) for one in judged if one.decides})
    assert {text.get_text().strip() for text in another.texts} == {"not run"}


def test_the_table_of_runs_says_over_how_many_class_sets_a_mean_is(tmp_path):
    both, few = results(tmp_path / "both", sets="a"), results(tmp_path / "few", sets="b")
    folders = [both, {"folder": few, "runs": ["ce"]}]
    claims = read_claims(claims_file(tmp_path / "claims.yaml", folders))
    _, found = judge(claims)
    header, _, *rows = [line.strip("| ").split(" | ") for line in to_runs(claims, found).splitlines()[2:]]
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    of_both = found["Digits"][0].runs
    (ce, cutmix) = table.values()
    assert (int(ce["n"]), int(cutmix["n"])) == (2 * of_both["class_set"].nunique(), of_both["class_set"].nunique())
    accuracy = of_both[(of_both["metric"] == "accuracy") & (of_both["run"] == "cutmix")]["value"].mean()
    assert float(cutmix["Accuracy"]) == pytest.approx(100 * accuracy, abs=0.051)


def test_the_data_of_earlier_studies_has_a_table_of_its_own():
    kept = REPOSITORY / "docs" / "results"
    claims = read_claims(kept / "claims.yaml")
    earlier = [name for name, evidence in claims.data.items() if evidence.earlier]
    assert 0 < len(earlier) < len(claims.data)
    page = (kept / "README.md").read_text()
    tables = [page.partition(begin)[2].partition(end)[0] for begin, end in (PAGE_MARKS, EARLIER_MARKS)]
    for name, evidence in claims.data.items():
        assert [f"{name}, " in table for table in tables] == [not evidence.earlier, evidence.earlier]


def test_the_command_ends_with_a_message_and_no_file(tmp_path):
    file = claims_file(tmp_path / "claims.yaml", [str(tmp_path / "nowhere")])
    done = command("--claims", file, "--csv", tmp_path / "c.csv", "--markdown", tmp_path / "c.md")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: the table runs is missing at ")
    assert not list(tmp_path.glob("c.*"))
