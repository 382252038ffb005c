"""One self-contained page of thumbnails with their answers, to sort and filter by verdict and score.

The page needs no server and no network: pictures, style and script are in it, and it may load nothing else. Pictures
are written as they come, so that the page of many images needs no memory here. `#show=unknown&sort=threshold` in its
address chooses what is shown.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape

from ..core.text import printable
from ..evaluation.thresholds import OperatingPoint
from .card import rate_in_words
from .description import UNKNOWN
from .images import Failure
from .model import Prediction

THUMBNAIL = 128  # pixels

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Known or none of these</title>
<style>
:root { color-scheme: light dark; --line: #8884; --known: #0a6d8c; --unknown: #b3420c; }
@media (prefers-color-scheme: dark) { :root { --known: #5cc1e0; --unknown: #ff9f68; } }
body { font: 15px/1.4 system-ui, sans-serif; margin: 0; }
header { position: sticky; top: 0; background: Canvas; border-bottom: 1px solid var(--line); padding: .7rem 1rem; }
h1 { font-size: 1.1rem; margin: 0 0 .2rem; }
p { margin: 0 0 .5rem; max-width: 70rem; }
label { margin-right: 1.2rem; white-space: nowrap; }
select { font: inherit; max-width: 16rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(136px, 1fr)); gap: .8rem; padding: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-top: 4px solid var(--known); border-radius: 4px;
  overflow: hidden; content-visibility: auto; contain-intrinsic-size: 136px 220px; }
figure[data-rejected="1"] { border-top-color: var(--unknown); }
figure[hidden] { display: none; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; background: #8882; }
.small { image-rendering: pixelated; }
figcaption { padding: .4rem .5rem .5rem; font-size: .85rem; overflow-wrap: anywhere; }
figcaption b { color: var(--known); display: block; font-size: .95rem; }
figure[data-rejected="1"] b { color: var(--unknown); }
figcaption span { display: block; opacity: .8; }
section { padding: 0 1rem 1rem; overflow-wrap: anywhere; }
</style>
</head>
<body>
"""

_SCRIPT = """<script>
"use strict";
const main = document.querySelector("main");
const figures = [...main.querySelectorAll("figure")];
const show = document.getElementById("show"), sort = document.getElementById("sort");
const threshold = Number(main.dataset.threshold);
const score = figure => Number(figure.dataset.score);
const orders = {
  order: (a, b) => a.dataset.number - b.dataset.number,
  low: (a, b) => score(a) - score(b),
  high: (a, b) => score(b) - score(a),
  threshold: (a, b) => Math.abs(score(a) - threshold) - Math.abs(score(b) - threshold),
};
function fits(figure, wanted) {
  const rejected = figure.dataset.rejected === "1";
  if (wanted === "all") return true;
  if (wanted === "known" || wanted === "unknown") return rejected === (wanted === "unknown");
  return !rejected && figure.dataset.label === wanted.slice(6);
}
function apply() {
  let count = 0;
  for (const figure of figures) {
    figure.hidden = !fits(figure, show.value);
    count += !figure.hidden;
  }
  main.append(...figures.sort(orders[sort.value]));
  document.getElementById("count").textContent = `${count} of ${figures.length} images`;
}
function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const select of [show, sort]) {
    const value = wanted.get(select.id);
    if ([...select.options].some(option => option.value === value)) select.value = value;
  }
  apply();
}
for (const select of [show, sort]) select.addEventListener("change", apply);
window.addEventListener("hashchange", fromAddress);
fromAddress();
</script>
</body>
</html>
"""


class Gallery:
    """The page, written piece by piece.

    Args:
        write: takes text.
        classes: names of the known classes.
        score: the name of the score.
        point: the operating point that decides.
    """

    def __init__(self, write: Callable[[str], object], classes: Sequence[str], score: str, point: OperatingPoint):
        self._write, self._count = write, 0
        self._failures: list[Failure] = []
        labels = "".join(
            f'<option value="class:{number}">{escape(printable(name))}</option>' for number, name in enumerate(classes)
        )
        self._label = {name: number for number, name in enumerate(classes)}
        write(
            f"{_HEAD}<header><h1>Known or none of these</h1>\n"
            f"<p>An image is {UNKNOWN} where its score ({escape(score)}) is below {point.threshold:.4g}: "
            f"{escape(point.name)}. In the calibration {escape(rate_in_words(point.known))} of the knowns were "
            f"accepted.</p>\n"
            '<label>Show <select id="show"><option value="all">all</option><option value="known">known</option>'
            f'<option value="unknown">{UNKNOWN}</option>{labels}</select></label>\n'
            '<label>Sort by <select id="sort"><option value="order">order given</option>'
            '<option value="low">score, lowest first</option><option value="high">score, highest first</option>'
            '<option value="threshold">distance to the threshold</option></select></label>\n'
            f'<output id="count"></output></header>\n<main data-threshold="{point.threshold!r}">\n'
        )

    def prediction(self, prediction: Prediction, thumbnail: bytes) -> None:
        """Adds an image; `thumbnail` is a JPEG."""
        name = escape(printable(prediction.name))
        likely = ", ".join(f"{escape(printable(label))} {100 * share:.0f} %" for label, share in prediction.top)
        self._write(
            f'<figure data-number="{self._count}" data-score="{prediction.score!r}" '
            f'data-rejected="{int(prediction.rejected)}" data-label="{self._label[prediction.predicted]}">'
            f'<img alt="{name}" src="data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}">'
            f"<figcaption><b>{escape(printable(prediction.verdict))}</b><span>score {prediction.score:.4g}</span>"
            f'<span>{likely}</span><span title="{name}">{name if len(name) <= 40 else _short(name)}</span>'
            "</figcaption></figure>\n"
        )
        self._count += 1

    def failure(self, failure: Failure) -> None:
        """Notes an image that could not be read; the page lists them at its end."""
        self._failures.append(failure)

    def close(self) -> None:
        self._write("</main>\n")
        if self._failures:
            lines = "".join(f"<li>{escape(printable(failure.message))}</li>" for failure in self._failures)
            self._write(f"<section><h2>Could not be read</h2><ul>{lines}</ul></section>\n")
        self._write(_SCRIPT)


def _short(name: str) -> str:
    """The end of a long path, from a folder on."""
    return "…/" + "/".join(name.split("/")[-2:])
