import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from torchvision import datasets as published
from torchvision.datasets import imagenet as published_imagenet

from openset_distill.core.errors import SettingsError
from openset_distill.datasets.catalog import CATALOG as CATALOG_FILE
from openset_distill.datasets.catalog import datasets, find, parse_checksum, published_checkpoints, read_catalog
from openset_distill.datasets.readers import READERS

ENTRIES = [*datasets().values(), published_checkpoints()]
CATALOG = CATALOG_FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entries_are_complete(entry):
    assert entry.citation or entry.name == "image_folder"
    assert entry.reader in {*READERS, "checkpoints"}
    for archive in entry.files:
        for url in archive.urls:
            assert urlsplit(url).scheme in ("http", "https")
            assert urlsplit(url).hostname


def test_every_reader_has_a_dataset():
    assert {entry.reader for entry in datasets().values()} == set(READERS)


@pytest.mark.parametrize(
    ("there", "instead", "words"),
    [
        ("    reader: idx\n", "", "datasets.mnist.reader: Field required"),
        ("    reader: idx\n", "    raeder: idx\n", "datasets.mnist: unknown key 'raeder'; did you mean 'reader'"),
        ("size: 9912422", "size: about 10 MB", "datasets.mnist.archives.0.size: .*integer"),
        ("size: 9912422", "size: -1", "datasets.mnist.archives.0.size: .*greater than 0"),
        ("md5:f68b3c2d", "md5:", "datasets.mnist.archives.0.checksum: .* is not a checksum"),
        ("channels: 1", "channels: 2", "datasets.digits.channels: .* 1 or 3"),
        ("  mnist:", "  digits:", "the key 'digits' stands twice"),
        ("file: train-images", "file: ../train-images", "datasets.mnist.archives.0.file: .* pattern"),
        ("file: t10k-labels-idx1", "file: t10k-images-idx3", "t10k-images-idx3-ubyte.gz is named twice"),
        (
            "http://data.csail.mit.edu",
            "ftp://data.csail.mit.edu",
            "val_256.tar: 'ftp://.*' is not an http or https",
        ),
        ("same_images_as: cifar10", "same_images_as: cifar1", "cifar10_images: same_images_as: .* no other .*'cifar1'"),
        ('        by_hand: "it has no public URL', "        #", "cifar-10-images.zip has neither urls nor by_hand"),
    ],
)
def test_mistakes_in_the_catalog_are_named(tmp_path, there, instead, words):
    assert there in CATALOG
    file = tmp_path / "catalog.yaml"
    file.write_text(CATALOG.replace(there, instead, 1), encoding="utf-8")
    with pytest.raises(SettingsError, match=words):
        read_catalog(file)


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
        name: [archive.file for archive in entry.auxiliary] for name, entry in datasets().items() if entry.auxiliary
    } == {
        "cub": ["cub_osr_splits.pkl"],
        "aircraft": ["aircraft_osr_splits.pkl"],
        "scars": ["scars_osr_splits.pkl"],
        "imagenet": ["imagenet_osr_splits.pkl", "imagenet_osr_splits_winter21.pkl"],
    }
    assert len(published_checkpoints().files) == 5


def test_an_unknown_name_is_refused_with_the_nearest():
    assert find("published_checkpoints") is published_checkpoints()
    with pytest.raises(SettingsError, match="unknown dataset 'cifar'; did you mean 'cifar10'"):
        find("cifar")


def test_checksums_of_another_form_are_refused():
    assert parse_checksum(" SHA256:" + "AB" * 32) == ("sha256", "ab" * 32)
    for text in ("", "md5", "md5:12", "sha256:" + "0" * 63, "crc:" + "0" * 8, "md5:" + "x" * 32):
        with pytest.raises(SettingsError, match="is not a checksum"):
            parse_checksum(text)


def test_the_catalog_is_read_without_heavy_libraries():
    code = (
        "import sys, openset_distill.datasets.catalog\n"
        "print([name for name in ('torch', 'torchvision', 'sklearn', 'pandas', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
