"""What claims and their verdicts look like: CSV, Markdown, and the generated parts of a page."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..core.errors import DataError
from ..core.files import atomic_write, read_text
from ..datasets.protocols import twins
from ..evaluation.statistics import CONFIDENCE, PairedDifference, class_set_means, mean_std, paired_difference
from . import tidy
from .claims import Claim, ClaimsFile, Judged, Results, class_sets, judge, of_today
from .context import SCORE_TITLES, counted, listed, score_words
from .tables import METRIC_TITLES
from .tables.common import DASH, interval
from .tables.formats import markdown_escape

EXPECTED_WORDS = {"higher": "higher", "lower": "lower", "same": "the same", "not_lower": "not lower"}
COLUMNS = (
    *("claim", "data", "run", "against", "outcome", "score", "decides", "expected", "margin", "n", "pairs"),
    *("difference", "low", "high", "accuracy_difference", "accuracy_low", "accuracy_high", "verdict"),
)
# a page's generated tables stand between these: the claims on today's data and the runs behind them, and the claims on
# the data of earlier studies
PAGE_MARKS = ("<!-- claims: made by tools/claims.py -->", "<!-- end of claims -->")
RUNS_MARKS = ("<!-- runs: made by tools/claims.py -->", "<!-- end of runs -->")
EARLIER_MARKS = ("<!-- earlier claims: made by tools/claims.py -->", "<!-- end of earlier claims -->")


def write(
    claims: ClaimsFile,
    table: str | os.PathLike,
    markdown: str | os.PathLike,
    page: str | os.PathLike | None = None,
) -> tuple[list[Judged], dict[str, list[Results]]]:
    """Judges the claims and writes them as CSV (all scores) and Markdown; the same input gives the same bytes.

    Args:
        page: a Markdown file whose marked parts become the tables of deciding scores: one of the data, and one of
            the data of earlier studies, where there are any.

    Raises:
        OpenSetError: as `judge`, the page has no place for the table, or a file cannot be written.
    """
    judged, results = judge(claims)
    contents = {table: to_csv(judged), markdown: to_markdown(judged, claims, results)}
    if page is not None:
        text = put_into_page(read_text(page), to_page(judged, of_today(claims, results)), PAGE_MARKS)
        text = put_into_page(text, to_runs(claims, of_today(claims, results)), RUNS_MARKS)
        earlier = {name: of_data for name, of_data in results.items() if claims.data[name].earlier}
        contents[page] = put_into_page(text, to_page(judged, earlier), EARLIER_MARKS) if earlier else text
    for path, content in contents.items():
        with atomic_write(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return judged, results


def to_csv(judged: Sequence[Judged]) -> str:
    """A row for each claim, data and score; differences and margins in points, empty where there is no interval."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in judged:
        claim, found, accuracy = one.claim, one.found, one.accuracy
        outcome = f"{claim.outcome} less that of {claim.less}" if claim.less else claim.outcome
        numbers = (found.difference, found.low, found.high)
        numbers += (accuracy.difference, accuracy.low, accuracy.high) if accuracy else (math.nan,) * 3
        run, against = (" + ".join(side) for side in claim.sides)
        row = (claim.claim, one.data, run, against, outcome, one.score, int(one.decides), claim.expected)
        writer.writerow((*row, f"{one.margin:g}", found.n, found.pairs, *map(_number, numbers), one.verdict))
    return stream.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}".replace("-0.0000", "0.0000")


def to_markdown(judged: Sequence[Judged], claims: ClaimsFile, results: Mapping[str, Sequence[Results]]) -> str:
    """A row for each claim and data: what the deciding score says, and what the others would."""
    first, *others = claims.scores
    header = ["Claim", "Data", "Outcome", SCORE_TITLES[first], *(SCORE_TITLES[score] for score in others)]
    header += ["Accuracy", "n", "Verdict"]
    lines = [line_of(header), line_of([":---"] * 3 + ["---:"] * (len(claims.scores) + 2) + [":---"])]
    by_place: dict[tuple[int, str], dict[str, Judged]] = {}
    for one in judged:
        by_place.setdefault((claims.claims.index(one.claim), one.data), {})[one.score] = one
    for (_, data), of_scores in by_place.items():
        deciding = next(one for one in of_scores.values() if one.decides)
        claim = deciding.claim
        of_accuracy = claim.outcome == "accuracy"
        cells = [difference(deciding.found) if not of_accuracy else DASH]
        for score in others:
            other = of_scores.get(score)
            cells.append(f"{difference(other.found)} ({other.verdict})" if other else DASH)
        accuracy = deciding.found if of_accuracy else deciding.accuracy
        cells.append(difference(accuracy) if accuracy else DASH)
        run, against = (_side_words(side) for side in claim.sides)
        than = "as" if claim.expected == "same" else "than"
        words = f"{METRIC_TITLES[claim.outcome]} of {run} {EXPECTED_WORDS[claim.expected]} {than} of {against}"
        if claim.less:
            words += f", less that by the {score_words(claim.less)}"
        if claim.keeps_accuracy:
            words += ", accuracy kept"
        if deciding.margin != claims.margin:
            words += f", margin {deciding.margin:g}"
        row = [claim.claim, data, words, *cells, str(deciding.found.n), f"**{deciding.verdict}**"]
        lines.append(line_of([*map(markdown_escape, row[:-1]), row[-1]]))
    return "\n".join([rule_words(claims), "", *lines, "", *_data_words(results), ""])


def _side_words(side: Sequence[str]) -> str:
    return side[0] if len(side) == 1 else f"the mean of {listed(side)}"


def to_page(judged: Sequence[Judged], results: Mapping[str, Sequence[Results]]) -> str:
    """A row for each claim on some of the `results`, a column for each of these: difference, accuracy, verdict."""
    data = list(results)
    header = ["Claim", *(f"{name}, {counted(class_sets(results[name]), 'class set')}" for name in data)]
    lines = [line_of([*map(markdown_escape, header)]), line_of([":---"] * len(header))]
    rows: dict[str, dict[str, str]] = {}
    for one in judged:
        if one.decides and one.data in results:
            rows.setdefault(one.claim.claim, {})[one.data] = _cell(one, class_sets(results[one.data]))
    lines += [
        line_of([markdown_escape(claim), *(cells.get(name, "not run") for name in data)])
        for claim, cells in rows.items()
    ]
    return "\n".join(lines)


def outcome_words(claim: Claim) -> str:
    """The metric that a claim is about, as it stands within a line."""
    return "accuracy" if claim.outcome == "accuracy" else METRIC_TITLES[claim.outcome]


def _cell(one: Judged, of_all: int) -> str:
    parts = [f"{outcome_words(one.claim)} {difference(one.found)}"]
    if one.accuracy:
        parts.append(f"accuracy {difference(one.accuracy)}")
    if one.found.n != of_all:
        parts.append(f"on {counted(one.found.n, 'class set')}")
    return f"{markdown_escape(', '.join(parts))}: **{one.verdict}**"


def put_into_page(text: str, table: str, marks: tuple[str, str] = PAGE_MARKS) -> str:
    """A page's text with `table` between the two `marks` that it has for it.

    Raises:
        DataError: the page does not have both marks, once each and in order.
    """
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end or any(text.count(mark) != 1 for mark in marks):
        raise DataError(f"the page has no place for the claims; it needs one line {marks[0]} and one {marks[1]}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def rule_words(claims: ClaimsFile) -> str:
    """The rule in words, from the numbers of the file."""
    return (
        f"Differences in points with {100 * CONFIDENCE:.0f} % intervals of Student's t over distinct class sets, "
        f"replicates of a class set averaged; n: class sets. The {score_words(claims.scores[0])} decides. The margin "
        f"is {claims.margin:g} points where a claim names no other. {' '.join(_rules(claims))} "
        f"Accuracy is kept where its interval does not go below -{claims.accuracy_loss:g}, and lost where it lies "
        "wholly below that."
    )


def _rules(claims: ClaimsFile) -> Iterator[str]:
    """A sentence for each kind of expectation that some claim has."""
    expected = {claim.expected for claim in claims.claims}
    if expected & {"higher", "lower"}:
        yield (
            "A claim of a difference: an interval within the margin of 0 is no difference within the margin; else the "
            "claim is confirmed by an interval on its side of 0, contradicted by one on the other side, and undecided "
            "where the interval contains 0."
        )
    if "not_lower" in expected:
        yield (
            'A claim of "not lower": confirmed by an interval that does not go below minus the margin, contradicted by '
            "one wholly below it."
        )
    if "same" in expected:
        yield (
            'A claim of "the same": confirmed by an interval within the margin, contradicted by one wholly beyond it.'
        )


def _data_words(results: Mapping[str, Sequence[Results]]) -> Iterator[str]:
    for name, of_data in results.items():
        parts = []
        for one in of_data:
            splits, seeds = sorted(one.class_sets), sorted({seed for _, _, seed in one.units})
            words = (
                f"{one.folder.name}, {counted(len(splits), 'split')} ({listed(splits)}), {counted(len(seeds), 'seed')}"
            )
            same = "; ".join(f"splits {listed(group)} have the same classes" for group in twins(one.class_sets))
            parts.append(f"{words}: {same}" if same else words)
        sets = counted(class_sets(of_data), "class set")
        yield markdown_escape(f"{name}: {sets} of {'; '.join(parts)}.") + "\n"


def difference(found: PairedDifference) -> str:
    """A difference in points with its interval; a bound near 0 has two decimals where they tell its side."""
    return interval(found.difference, found.low, found.high, _bound)


def _bound(points: float) -> str:
    if 0.005 <= abs(points) < 0.05:
        return f"{points:+.2f}".replace("-", "\N{MINUS SIGN}")
    return tidy.signed(points)


def line_of(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def to_runs(claims: ClaimsFile, results: Mapping[str, Sequence[Results]]) -> str:
    """A table for each data: a row for each run of the file of claims that some results there hold.

    A run's means are over the class sets of the results that hold it, whose number stands in its row.

    Raises:
        DataError: a run was not evaluated for every class set of its results.
    """
    first = claims.scores[0]
    columns = [("accuracy", ""), ("auroc", first), ("oscr", first)]
    columns += [("auroc", score) for score in claims.scores[1:]]
    titles = [METRIC_TITLES[metric] for metric, _ in columns[:3]]
    titles += [f"{METRIC_TITLES['auroc']} by the {score_words(score)}" for _, score in columns[3:]]
    parts = []
    for data, of_data in results.items():
        baseline = _label(claims.baseline, of_data)
        header = ["Run", *titles, f"{titles[0]} to {baseline}", f"{titles[1]} to {baseline}", "n"]
        lines = [line_of(map(markdown_escape, header)), line_of([":---"] + ["---:"] * (len(header) - 1))]
        for run in claims.runs:
            holding = [one for one in of_data if one.holds(run) and one.holds(claims.baseline)]
            if not holding:
                continue
            row = [_label(run, holding)]
            row += [tidy.decimal(_mean(run, holding, metric, score)) for metric, score in columns]
            row += [
                DASH if run == claims.baseline else _to_baseline(run, holding, claims, metric, score)
                for metric, score in columns[:2]
            ]
            lines.append(line_of([*map(markdown_escape, row), str(class_sets(holding))]))
        parts.append(
            f"**{markdown_escape(data)}** ({counted(class_sets(of_data), 'class set')})\n\n" + "\n".join(lines)
        )
    return "\n\n".join(parts)


def _label(run: str, results: Sequence[Results]) -> str:
    rows = results[0].runs
    return str(rows[rows["run"] == run]["label"].iloc[0])


def _values(run: str, results: Sequence[Results], metric: str, score: str) -> dict:
    found: dict = {}
    for one in results:
        found |= one.values(run, metric, score, "the table of runs")
    return found


def _mean(run: str, results: Sequence[Results], metric: str, score: str) -> float:
    return mean_std(class_set_means(_values(run, results, metric, score)).values()).mean


def _to_baseline(run: str, results: Sequence[Results], claims: ClaimsFile, metric: str, score: str) -> str:
    baseline = _values(claims.baseline, results, metric, score)
    return difference(paired_difference(_values(run, results, metric, score), baseline))
