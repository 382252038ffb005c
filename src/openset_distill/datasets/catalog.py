"""What datasets exist, where their archives come from, how they are checked and what their licence is.

Checksums are those that the authors or torchvision publish, or that many independent projects state for the official
file. An archive without a known checksum has `checksum=None`: its SHA-256 is recorded when it is first fetched and
compared from then on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..core.errors import SettingsError, nearest

_DIGITS = tuple("0123456789")
_CHECKSUM_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to fetch.

    `file`: its name in the dataset's folder and in a mirror; `urls`: where it is served, tried in this order;
    `size`: bytes, None where not known for sure; `checksum`: `algorithm:hexadecimal digits`, None where none is
    known; `by_hand`: how to get it where no URL serves it to everybody; `unpacked`: patterns of names in the
    dataset's folder that take its place, for what users often have unpacked already.
    """

    file: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    checksum: str | None = None
    by_hand: str = ""
    unpacked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset of the catalog.

    `layout`: name of the reader of its archives; `size`: natural height and width in pixels, None where images differ;
    `channels`: 1 (grey) or 3 (RGB); `classes`: class names in label order, or how they are read; `auxiliary`: files
    beside the images (published class splits).
    """

    name: str
    title: str
    archives: tuple[Archive, ...]
    licence: str
    citation: str
    layout: str
    size: tuple[int, int] | None
    channels: int
    classes: tuple[str, ...] | str
    auxiliary: tuple[Archive, ...] = ()
    notes: str = ""

    @property
    def files(self) -> tuple[Archive, ...]:
        """Everything to fetch: the archives and the auxiliary files."""
        return self.archives + self.auxiliary


def parse_checksum(text: str) -> tuple[str, str]:
    """Splits `algorithm:hexadecimal digits`.

    >>> parse_checksum("md5:90528d7ca1a48142e341f4ef8d21d0de")
    ('md5', '90528d7ca1a48142e341f4ef8d21d0de')

    Raises:
        SettingsError: not of this form.
    """
    algorithm, _, digits = text.strip().lower().partition(":")
    if _CHECKSUM_DIGITS.get(algorithm) != len(digits) or not re.fullmatch("[0-9a-f]+", digits):
        raise SettingsError(
            f"{text!r} is no checksum; write sha256: and 64 hexadecimal digits (sha512, sha1 and md5 work too)"
        )
    return algorithm, digits


def find(name: str) -> Dataset:
    """The entry of that name: a dataset or `published_checkpoints`.

    Raises:
        SettingsError: there is none.
    """
    entries = {**DATASETS, PUBLISHED_CHECKPOINTS.name: PUBLISHED_CHECKPOINTS}
    if name not in entries:
        raise SettingsError(f"unknown dataset {name!r}; {nearest(name, entries)}")
    return entries[name]


def check_files(setting: str, files: Iterable[str]) -> None:
    """Whether each name is a file of the catalog; `setting` names the list in the message.

    Raises:
        SettingsError: one is not.
    """
    known = {archive.file for entry in (*DATASETS.values(), PUBLISHED_CHECKPOINTS) for archive in entry.files}
    for file in files:
        if file not in known:
            raise SettingsError(f"{setting}: no dataset has an archive {file!r}; {nearest(file, known)}")


# -------------------------------------------------------------- published class splits and checkpoints

_VAZE = "https://raw.githubusercontent.com/sgvaze/osr_closed_set_all_you_need"
_VAZE_CITATION = (
    "S. Vaze, K. Han, A. Vedaldi, A. Zisserman. Open-Set Recognition: A Good Closed-Set Classifier is All You Need. "
    "ICLR 2022."
)


def _class_split(file: str, size: int, sha256: str) -> Archive:
    url = f"{_VAZE}/main/data/open_set_splits/{file}"
    return Archive(file=file, urls=(url,), size=size, checksum=f"sha256:{sha256}")


def _checkpoint(split: int, sha256: str | None = None) -> Archive:
    # one fixed commit: three of the five files have no published checksum
    commit = "a49ead0f837d0600c9aa8ebdb0cfb28ed211e9df"
    return Archive(
        file=f"vgg32_tinyimagenet_split{split}.pth",
        urls=(f"{_VAZE}/{commit}/pretrained_weights/tinyimagenet_{split}.pth",),
        size=4_035_313 if sha256 else None,
        checksum=f"sha256:{sha256}" if sha256 else None,
    )


PUBLISHED_CHECKPOINTS = Dataset(
    name="published_checkpoints",
    title="VGG32 classifiers of the five Tiny-ImageNet splits",
    archives=(
        _checkpoint(0, "d70ecf22bd42a5501e715e40feebc930900fcc362745ec9c0a3722e57e33fd1b"),
        _checkpoint(1, "fdc69e26cf5a97c2bf7d8e8f698020a9d85eebb4a917aabd0f7b9be05213915a"),
        _checkpoint(2),
        _checkpoint(3),
        _checkpoint(4),
    ),
    licence="MIT",
    citation=_VAZE_CITATION,
    layout="checkpoints",
    size=(64, 64),
    channels=3,
    classes="the 20 known classes of the split",
    notes="PyTorch state dicts; the authors report means over the five splits.",
)

# ---------------------------------------------------------------------------------------------- datasets

_NOT_STATED = "not stated by the authors"
_IMAGENET_TERMS = "ImageNet terms of access: non-commercial research and education only"
_IMAGENET_CITATION = (
    "O. Russakovsky et al. ImageNet Large Scale Visual Recognition Challenge. "
    "International Journal of Computer Vision 115(3), 2015."
)
_KRIZHEVSKY = "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. University of Toronto, 2009."
_ODIN_CITATION = (
    "S. Liang, Y. Li, R. Srikant. Enhancing the Reliability of Out-of-Distribution Image Detection in Neural Networks. "
    "ICLR 2018."
)
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _mnist(file: str, size: int, md5: str) -> Archive:
    places = (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        "http://yann.lecun.com/exdb/mnist",
    )
    return Archive(file=file, urls=tuple(f"{place}/{file}" for place in places), size=size, checksum=f"md5:{md5}")


def _svhn(file: str, size: int, md5: str) -> Archive:
    url = f"http://ufldl.stanford.edu/housenumbers/{file}"
    return Archive(file=file, urls=(url,), size=size, checksum=f"md5:{md5}")


def _dropbox(key: str, file: str, md5: str) -> Archive:
    urls = (f"https://www.dropbox.com/s/{key}/{file}?dl=1", f"https://www.dropbox.com/s/raw/{key}/{file}")
    return Archive(file=file, urls=urls, checksum=f"md5:{md5}")


def _cars(file: str, md5: str, *urls: str) -> Archive:
    return Archive(
        file=file,
        urls=urls,
        checksum=f"md5:{md5}",
        by_hand="the authors' server no longer has it: use a copy, its checksum tells whether it is the original",
    )


def _imagenet(file: str, size: int | None, md5: str | None, *unpacked: str) -> Archive:
    return Archive(
        file=file,
        size=size,
        checksum=f"md5:{md5}" if md5 else None,
        by_hand="sign in at https://image-net.org/download.php, accept the terms and download it",
        unpacked=unpacked,
    )


_ENTRIES = (
    Dataset(
        name="digits",
        title="Optical recognition of handwritten digits (embedded in scikit-learn)",
        archives=(),
        licence="CC BY 4.0",
        citation="E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, "
        "1998, doi 10.24432/C50P49.",
        layout="embedded_digits",
        size=(8, 8),
        channels=1,
        classes=_DIGITS,
        notes="1,797 images; no download.",
    ),
    Dataset(
        name="mnist",
        title="MNIST handwritten digits",
        archives=(
            _mnist("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            _mnist("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            _mnist("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            _mnist("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        licence=f"{_NOT_STATED} (often passed on under CC BY-SA 3.0)",
        citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-based learning applied to document recognition. "
        "Proceedings of the IEEE 86(11), 1998.",
        layout="idx",
        size=(28, 28),
        channels=1,
        classes=_DIGITS,
    ),
    Dataset(
        name="svhn",
        title="Street View House Numbers, cropped digits",
        archives=(
            _svhn("train_32x32.mat", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            _svhn("test_32x32.mat", 64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
        ),
        licence="non-commercial use only",
        citation="Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu, A. Y. Ng. Reading Digits in Natural Images with "
        "Unsupervised Feature Learning. NIPS Workshop on Deep Learning and Unsupervised Feature Learning, 2011.",
        layout="svhn_mat",
        size=(32, 32),
        channels=3,
        classes=_DIGITS,
        notes="The files store the digit 0 as label 10. The extra training images are not used.",
    ),
    Dataset(
        name="cifar10",
        title="CIFAR-10",
        archives=(
            Archive(
                file="cifar-10-python.tar.gz",
                urls=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                size=170_498_071,
                checksum="md5:c58f30108f718f92721af3b95e74349a",
            ),
        ),
        licence=_NOT_STATED,
        citation=_KRIZHEVSKY,
        layout="cifar_pickle",
        size=(32, 32),
        channels=3,
        classes=_CIFAR10_CLASSES,
    ),
    Dataset(
        name="cifar10_images",
        title="CIFAR-10 as class folders of JPEG files",
        archives=(
            Archive(
                file="cifar-10-images.zip",
                size=64_110_935,
                checksum="sha256:5ddcc388dc9f0aabd182eb36756c338a86e60c5f51975cafb0dcfa152756de66",
                by_hand="it has no public URL: name a folder that holds it as the mirror, or use cifar10",
            ),
        ),
        licence=_NOT_STATED,
        citation=_KRIZHEVSKY,
        layout="image_folder",
        size=(32, 32),
        channels=3,
        classes=_CIFAR10_CLASSES,
        notes="Encoded again as JPEG: not pixel for pixel the official images, so results are not those of cifar10.",
    ),
    Dataset(
        name="cifar100",
        title="CIFAR-100",
        archives=(
            Archive(
                file="cifar-100-python.tar.gz",
                urls=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
                size=169_001_437,
                checksum="md5:eb9058c3a382ffc7106e4002c42a8d85",
            ),
        ),
        licence=_NOT_STATED,
        citation=_KRIZHEVSKY,
        layout="cifar_pickle",
        size=(32, 32),
        channels=3,
        classes="fine_label_names in the archive's meta file",
    ),
    Dataset(
        name="tinyimagenet",
        title="Tiny-ImageNet",
        archives=(
            Archive(
                file="tiny-imagenet-200.zip",
                urls=(
                    "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
                    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                ),
                size=248_100_043,
                checksum="md5:90528d7ca1a48142e341f4ef8d21d0de",
            ),
        ),
        licence=f"{_NOT_STATED} (a subset of ImageNet: non-commercial research and education only)",
        citation="Y. Le, X. Yang. Tiny ImageNet Visual Recognition Challenge. Stanford CS 231N, 2015.",
        layout="tiny_imagenet",
        size=(64, 64),
        channels=3,
        classes="wnids.txt in sorted order; words.txt has their names",
        notes="The test part is `val`: the labels of `test` were never published.",
    ),
    Dataset(
        name="cub",
        title="Caltech-UCSD Birds-200-2011",
        archives=(
            Archive(
                file="CUB_200_2011.tgz",
                urls=(
                    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                    "http://www.vision.caltech.edu/visipedia-data/CUB-200-2011/CUB_200_2011.tgz",
                ),
                size=1_150_585_339,
                checksum="md5:97eceeb196236b17998738112f37df78",
            ),
        ),
        licence="non-commercial research and education only; images belong to their photographers",
        citation="C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie. The Caltech-UCSD Birds-200-2011 Dataset. "
        "Technical report CNS-TR-2011-001, California Institute of Technology, 2011.",
        layout="cub",
        size=None,
        channels=3,
        classes="classes.txt in the archive",
        auxiliary=(
            _class_split(
                "cub_osr_splits.pkl", 1_268, "48bdcaa05603d932037738d3df776ab500945e9b7aeff85f4668305bf71bd1e7"
            ),
        ),
        notes=f"Class splits: {_VAZE_CITATION}",
    ),
    Dataset(
        name="aircraft",
        title="FGVC-Aircraft 2013b",
        archives=(
            Archive(
                file="fgvc-aircraft-2013b.tar.gz",
                urls=("https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
                size=2_753_340_328,
                checksum="md5:d4acdd33327262359767eeaa97a4f732",
            ),
        ),
        licence="non-commercial research only; images belong to their photographers",
        citation="S. Maji, J. Kannala, E. Rahtu, M. Blaschko, A. Vedaldi. Fine-Grained Visual Classification of "
        "Aircraft. arXiv 1306.5151, 2013.",
        layout="aircraft",
        size=None,
        channels=3,
        classes="data/variants.txt in the archive",
        auxiliary=(
            _class_split(
                "aircraft_osr_splits.pkl", 683, "2a2481307cec7821721d6a73c1a3ca77db7e657649e043d1a83aa7dd81a5a194"
            ),
        ),
        notes=f"Each image has a banner of 20 pixels at the bottom. Class splits: {_VAZE_CITATION}",
    ),
    Dataset(
        name="scars",
        title="Stanford Cars",
        archives=(
            _cars(
                "cars_train.tgz",
                "065e5b463ae28d29e77c1b4b166cfe61",
                "https://ai.stanford.edu/~jkrause/car196/cars_train.tgz",
            ),
            _cars(
                "cars_test.tgz",
                "4ce7ebf6a94d07f1952d94dd34c4d501",
                "https://ai.stanford.edu/~jkrause/car196/cars_test.tgz",
            ),
            _cars(
                "car_devkit.tgz",
                "c3b158d763b6e2245038c8ad08e45376",
                "https://ai.stanford.edu/~jkrause/cars/car_devkit.tgz",
                "https://github.com/pytorch/vision/files/11644847/car_devkit.tgz",
            ),
            _cars(
                "cars_test_annos_withlabels.mat",
                "b0a2b23655a3edd16d84508592a98d10",
                "https://ai.stanford.edu/~jkrause/car196/cars_test_annos_withlabels.mat",
            ),
        ),
        licence="not known: the authors' page is gone",
        citation="J. Krause, M. Stark, J. Deng, L. Fei-Fei. 3D Object Representations for Fine-Grained Categorization. "
        "4th International IEEE Workshop on 3D Representation and Recognition, 2013.",
        layout="stanford_cars",
        size=None,
        channels=3,
        classes="devkit/cars_meta.mat in car_devkit.tgz",
        auxiliary=(
            _class_split(
                "scars_osr_splits.pkl", 502, "28d471f0fb9e2c773e1255b8b447e542974f6617952203056a0635c638513d39"
            ),
        ),
        notes=f"Class splits: {_VAZE_CITATION}",
    ),
    Dataset(
        name="imagenet",
        title="ImageNet-1K (ILSVRC 2012)",
        archives=(
            _imagenet("ILSVRC2012_img_train.tar", 147_897_477_120, "1d675b47d978889d74fa0da5fadfb00e", "train"),
            _imagenet("ILSVRC2012_img_val.tar", 6_744_924_160, "29b22e2961454d5413ddabcf34fc5622", "val"),
            _imagenet("ILSVRC2012_devkit_t12.tar.gz", None, "fa75699e90414af021442c21a62c3abf", "train"),
        ),
        licence=_IMAGENET_TERMS,
        citation=_IMAGENET_CITATION,
        layout="imagenet",
        size=None,
        channels=3,
        classes="data/meta.mat in the development kit",
        auxiliary=(
            _class_split(
                "imagenet_osr_splits.pkl",
                144_803,
                "f175aef5a57f56140540033ee8e7dc321dad289f8291ec7795105c6021665350",
            ),
            _class_split(
                "imagenet_osr_splits_winter21.pkl",
                133_544,
                "0455f2e38dc0e3db64faabdfca662f551dbdd67e3d2164ce56a07d586221c985",
            ),
        ),
        notes=f"Read from its archives, or unpacked as train/ and val/. Class splits: {_VAZE_CITATION}",
    ),
    Dataset(
        name="imagenet21k",
        title="ImageNet-21K-P (winter 2021 release, resized)",
        archives=(
            _imagenet(
                "imagenet21k_resized.tar.gz", None, None, "imagenet21k_resized", "imagenet21k_val", "n[0-9]*.tar"
            ),
        ),
        licence=_IMAGENET_TERMS,
        citation="T. Ridnik, E. Ben-Baruch, A. Noy, L. Zelnik-Manor. ImageNet-21K Pretraining for the Masses. "
        "NeurIPS Datasets and Benchmarks, 2021.",
        layout="imagenet21k",
        size=None,
        channels=3,
        classes="names of the class folders",
        notes="It is read unpacked, also as the class archives of winter21. Its class splits come with imagenet.",
    ),
    Dataset(
        name="textures",
        title="Describable Textures (DTD r1.0.1)",
        archives=(
            Archive(
                file="dtd-r1.0.1.tar.gz",
                urls=(
                    "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                    "https://thor.robots.ox.ac.uk/dtd/dtd-r1.0.1.tar.gz",
                ),
                size=625_239_812,
                checksum="md5:fff73e5086ae6bdbea199a49dfb8a4c1",
            ),
        ),
        licence="for research purposes",
        citation="M. Cimpoi, S. Maji, I. Kokkinos, S. Mohamed, A. Vedaldi. Describing Textures in the Wild. CVPR 2014.",
        layout="textures",
        size=None,
        channels=3,
        classes="folders of dtd/images in sorted order",
    ),
    Dataset(
        name="lsun_crop",
        title="LSUN scenes, cropped",
        archives=(_dropbox("fhtsw1m3qxlwj6h", "LSUN.tar.gz", "458a0a0ab8e5f1cb4516d7400568e460"),),
        licence=_NOT_STATED,
        citation=_ODIN_CITATION,
        layout="flat_images",
        size=None,
        channels=3,
        classes=("lsun_crop",),
        notes="10,000 images without classes, for out-of-distribution detection.",
    ),
    Dataset(
        name="lsun_resize",
        title="LSUN scenes, resized",
        archives=(_dropbox("moqh2wh8696c3yl", "LSUN_resize.tar.gz", "278b7b31c8cb7e804a1465a8ce03a2dc"),),
        licence=_NOT_STATED,
        citation=_ODIN_CITATION,
        layout="flat_images",
        size=(32, 32),
        channels=3,
        classes=("lsun_resize",),
        notes="10,000 images without classes, for out-of-distribution detection.",
    ),
    Dataset(
        name="isun",
        title="iSUN scenes, resized",
        archives=(_dropbox("ssz7qxfqae0cca5", "iSUN.tar.gz", "be77b0f2c26fda898afac5f99645ee70"),),
        licence=_NOT_STATED,
        citation=_ODIN_CITATION,
        layout="flat_images",
        size=(32, 32),
        channels=3,
        classes=("isun",),
        notes="8,925 images without classes, for out-of-distribution detection.",
    ),
    Dataset(
        name="places365",
        title="Places365, validation images at 256 x 256",
        archives=(
            Archive(
                file="val_256.tar",
                urls=("http://data.csail.mit.edu/places/places365/val_256.tar",),
                size=525_158_400,
                checksum="md5:e27b17d8d44f4af9a78502beb927f808",
            ),
        ),
        licence="academic research and education only",
        citation="B. Zhou, A. Lapedriza, A. Khosla, A. Oliva, A. Torralba. Places: A 10 Million Image Database for "
        "Scene Recognition. IEEE Transactions on Pattern Analysis and Machine Intelligence 40(6), 2018.",
        layout="flat_images",
        size=(256, 256),
        channels=3,
        classes=("places365",),
        notes="36,500 images, used without their classes for out-of-distribution detection.",
    ),
    Dataset(
        name="image_folder",
        title="Your own images",
        archives=(),
        licence="yours",
        citation="",
        layout="image_folder",
        size=None,
        channels=3,
        classes="names of the class folders in sorted order",
        notes="A folder, zip or tar archive with one folder of images a class, named in the configuration.",
    ),
)

DATASETS: Mapping[str, Dataset] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
