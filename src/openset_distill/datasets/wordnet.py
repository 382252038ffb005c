"""Words for the classes of ImageNet and its parts, which are named by identifiers of WordNet (`n01629819`)."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

_IDENTIFIER = re.compile(r"n\d{8}")
# identifier, tab, its words separated by commas: a file of timm, which is not imported for it
_WORDS = "data/_info/imagenet_synset_to_lemma.txt"


@functools.cache
def _words() -> dict[str, str]:
    found = importlib.util.find_spec("timm")
    path = Path(found.submodule_search_locations[0], _WORDS) if found and found.submodule_search_locations else None
    if path is None or not path.is_file():
        return {}
    lines = (line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {identifier: words for identifier, _, words in lines if words}


def class_words(name: str) -> str:
    """The first words for a WordNet identifier; any other name, and one without words, as it is.

    >>> class_words("n02279972"), class_words("frog")
    ('monarch', 'frog')
    """
    if not _IDENTIFIER.fullmatch(name):
        return name
    return re.split(r"[,_]\s+|,", _words().get(name, name))[0].replace("_", " ")
