import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from torchvision import datasets as published
from torchvision.datasets import imagenet as published_imagenet

from openset_distill.core.errors import SettingsError
from openset_distill.datasets.catalog import DATASETS, PUBLISHED_CHECKPOINTS, find, parse_checksum

LAYOUTS = {
    *("embedded_digits", "idx", "svhn_mat", "cifar_pickle", "tiny_imagenet", "cub", "aircraft", "stanford_cars"),
    *("image_folder", "textures", "flat_images", "imagenet", "imagenet21k"),
}
ENTRIES = [*DATASETS.values(), PUBLISHED_CHECKPOINTS]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entries_are_complete(entry):
    assert re.fullmatch("[a-z0-9_]+", entry.name)
    assert entry.title
    assert entry.licence
    assert entry.citation or entry.name == "image_folder"
    assert entry.layout in LAYOUTS | {"checkpoints"}
    assert entry.channels in (1, 3)
    assert entry.classes
    names = [archive.file for archive in entry.files]
    assert len(set(names)) == len(names)
    for archive in entry.files:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", archive.file)
        assert archive.urls or archive.by_hand
        assert archive.size is None or archive.size > 0
        if archive.checksum:
            assert ":".join(parse_checksum(archive.checksum)) == archive.checksum
        for url in archive.urls:
            assert urlsplit(url).scheme in ("http", "https")
            assert urlsplit(url).hostname


def test_every_layout_has_a_dataset():
    assert {entry.layout for entry in DATASETS.values()} == LAYOUTS


def checksums(name):
    return {archive.file: archive.checksum for archive in find(name).archives}


def test_checksums_are_those_that_torchvision_publishes():
    assert checksums("mnist") == {file: f"md5:{md5}" for file, md5 in published.MNIST.resources}
    for split in ("train", "test"):
        url, file, md5 = published.SVHN.split_list[split]
        assert checksums("svhn")[file] == f"md5:{md5}"
        assert url in [place for archive in find("svhn").archives for place in archive.urls]
    for name, source in (("cifar10", published.CIFAR10), ("cifar100", published.CIFAR100)):
        [archive] = find(name).archives
        assert (archive.urls[0], archive.checksum) == (source.url, f"md5:{source.tgz_md5}")
    assert checksums("textures") == {"dtd-r1.0.1.tar.gz": f"md5:{published.DTD._MD5}"}
    assert checksums("imagenet") == {file: f"md5:{md5}" for file, md5 in published_imagenet.ARCHIVE_META.values()}
    file, md5 = published.Places365._IMAGES_META["val", True]
    assert checksums("places365") == {file: f"md5:{md5}"}


def test_class_splits_come_with_their_datasets():
    assert {
        name: [archive.file for archive in entry.auxiliary] for name, entry in DATASETS.items() if entry.auxiliary
    } == {
        "cub": ["cub_osr_splits.pkl"],
        "aircraft": ["aircraft_osr_splits.pkl"],
        "scars": ["scars_osr_splits.pkl"],
        "imagenet": ["imagenet_osr_splits.pkl", "imagenet_osr_splits_winter21.pkl"],
    }
    assert len(PUBLISHED_CHECKPOINTS.files) == 5


def test_an_unknown_name_is_refused_with_the_nearest():
    assert find("published_checkpoints") is PUBLISHED_CHECKPOINTS
    with pytest.raises(SettingsError, match="unknown dataset 'cifar'; did you mean 'cifar10'"):
        find("cifar")


def test_checksums_of_another_form_are_refused():
    assert parse_checksum(" SHA256:" + "AB" * 32) == ("sha256", "ab" * 32)
    for text in ("", "md5", "md5:12", "sha256:" + "0" * 63, "crc:" + "0" * 8, "md5:" + "x" * 32):
        with pytest.raises(SettingsError, match="is no checksum"):
            parse_checksum(text)


def test_the_catalog_is_read_without_heavy_libraries():
    code = (
        "import sys, openset_distill.datasets.catalog\n"
        "print([name for name in ('torch', 'torchvision', 'sklearn', 'pandas', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
