"""Where the paper's image sets are to be had: addresses, digests, sizes, licences, as data.

Nothing here is from memory. Each entry says in `known` where its address and digest were found; `digest=""` means that
no published checksum is known to us. MD5 is what the publishers state: it tells a broken download, and is no proof
against somebody who builds a file on purpose. None of the downloads could be tried where this was written, for want of
the internet; the digest of `office_caltech_10` was computed from a copy of that very commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_LIBSVM = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass"
_SVHN = "http://ufldl.stanford.edu/housenumbers"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist"
_VISDA = "http://csr.bu.edu/ftp/visda/2019/multi-source"
_OFFICE = "91ad5c3f5b7b205083692e2aa62630692596cb1a"
_FLAMBY = (
    "https://raw.githubusercontent.com/owkin/FLamby/edacf54d5211520583b0133d55ac39b6fda8324b"
    "/flamby/datasets/fed_isic2019/dataset_creation_scripts"
)
_TORCHVISION = "torchvision.datasets"


@dataclass(frozen=True)
class Remote:
    """A file of a source.

    Attributes:
        name: its path below the folder of the source's downloads.
        url: where it is to be had; a page where `direct` is False.
        digest: `md5:...` or `sha256:...`; "": not known to us.
        direct: whether the address gives the file itself, without a page to click through.
    """

    name: str
    url: str
    digest: str = ""
    direct: bool = True


@dataclass(frozen=True)
class Source:
    """A set, or a domain of one.

    Attributes:
        title: what it is.
        makes: files or folders that it becomes, below the folder of all sets.
        files: what is downloaded.
        images: how many images are published; 0: not known.
        megabytes: of the download, about; 0: not known.
        licence: what its publishers allow.
        known: where address, digest and number of images were found.
        automatic: whether `fetch` downloads it; else a person does, having read the licence.
        listing: SHA-256 of the lines `<sha256>  <path>` of all files that it becomes, sorted by path; "": not known.
    """

    title: str
    makes: tuple[str, ...]
    files: tuple[Remote, ...]
    images: int
    megabytes: int
    licence: str
    known: str
    automatic: bool = False
    listing: str = ""


def _pair(folder: str, name: str) -> tuple[str, str]:
    return f"{folder}/{name}_train.npz", f"{folder}/{name}_test.npz"


def _mnist(name: str, digest: str) -> Remote:
    return Remote(f"MNIST/raw/{name}.gz", f"{_MNIST}/{name}.gz", f"md5:{digest}")


def _domainnet(domain: str, digest: str) -> Remote:
    cleaned = "groundtruth/" if domain in {"clipart", "painting"} else ""
    return Remote(f"{domain}.zip", f"{_VISDA}/{cleaned}{domain}.zip", f"md5:{digest}")


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "mnist": Source(
            title="MNIST, 28x28x1",
            makes=_pair("digits_five", "mnist"),
            files=(
                _mnist("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                _mnist("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
                _mnist("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
                _mnist("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
            ),
            images=70_000,
            megabytes=12,
            licence="commonly given as CC BY-SA 3.0",
            known=_TORCHVISION,
            automatic=True,
        ),
        "usps": Source(
            title="USPS, 16x16x1",
            makes=_pair("digits_five", "usps"),
            files=(
                Remote("usps.bz2", f"{_LIBSVM}/usps.bz2", "md5:ec16c51db3855ca6c91edd34d0e9b197"),
                Remote("usps.t.bz2", f"{_LIBSVM}/usps.t.bz2", "md5:8ea070ee2aca1ac39742fdd1ef5ed118"),
            ),
            images=9_298,
            megabytes=0,
            licence="none stated",
            known=_TORCHVISION,
            automatic=True,
        ),
        "svhn": Source(
            title="SVHN, cropped digits, 32x32x3, without the `extra` part",
            makes=_pair("digits_five", "svhn"),
            files=(
                Remote("train_32x32.mat", f"{_SVHN}/train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
                Remote("test_32x32.mat", f"{_SVHN}/test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3"),
            ),
            images=99_289,
            megabytes=246,
            licence="for non-commercial use only",
            known=f"{_TORCHVISION}; the number of images: FedBN's utils/data_preprocess.py",
            automatic=True,
        ),
        "cifar10": Source(
            title="CIFAR-10, 32x32x3, the binary version: torchvision's own is pickled",
            makes=_pair("cifar10", "cifar10"),
            files=(
                Remote(
                    "cifar-10-binary.tar.gz",
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "md5:c32a1d4ab5d03f1284b67883e8d87530",
                ),
            ),
            images=60_000,
            megabytes=162,
            licence="none stated; the authors ask for a citation",
            known="https://www.cs.toronto.edu/~kriz/cifar.html",
            automatic=True,
        ),
        "mnist_m": Source(
            title="MNIST-M, 32x32x3, the unpacked version",
            makes=_pair("digits_five", "mnist_m"),
            files=(
                Remote(
                    "mnist_m.tar.gz",
                    "https://cornell.box.com/shared/static/jado7quprg6hzzdubvwzh9umr75damwi",
                    "md5:859df31c91afe82e80e5012ba928f279",
                ),
            ),
            images=68_002,
            megabytes=0,
            licence="BSDS500, its background photos: non-commercial research and education",
            known="KevinMusgrave/pytorch-adapt (datasets/mnistm.py) and, with the same MD5, the original at "
            "https://drive.google.com/open?id=0B_tExHiYS-0veklUZHFYT19KYjg, linked from http://yaroslav.ganin.net",
        ),
        "synth_digits": Source(
            title="SynthDigits (SYN), 32x32x3",
            makes=_pair("digits_five", "synth_digits"),
            files=(
                Remote(
                    "SynthDigits.zip",
                    "https://drive.google.com/file/d/0B9Z4d7lAwbnTSVR1dEFSRUFxOUU/view",
                    direct=False,
                ),
            ),
            images=488_953,
            megabytes=0,
            licence="none stated",
            known="linked from http://yaroslav.ganin.net; the number of images: FedBN's utils/data_preprocess.py",
        ),
        "office_caltech_10": Source(
            title="Office-Caltech-10",
            makes=("office_caltech_10",),
            files=(
                Remote(
                    "office_caltech_10.zip",
                    f"https://github.com/ChristophRaab/Office_Caltech_DA_Dataset/archive/{_OFFICE}.zip",
                ),
            ),
            images=2_533,
            megabytes=54,
            licence="Office-31: none stated (research); Caltech-256: CC BY 4.0",
            known=f"a copy at commit {_OFFICE[:7]}, whose content `listing` is the digest of; the original page, "
            "https://people.eecs.berkeley.edu/~jhoffman/domainadapt, no longer has it",
            listing="75f1720d231a8cacc63dacd56bb9a5be57dcffe19fdf742885781065944a5da8",
        ),
        "domainnet": Source(
            title="DomainNet, cleaned version; FedBN's ten classes are unpacked",
            makes=("domainnet",),
            files=(
                _domainnet("clipart", "cd0d8f2d77a4e181449b78ed62bccf1e"),
                _domainnet("infograph", "720380b86f9e6ab4805bb38b6bd135f8"),
                _domainnet("painting", "1ae32cdb4f98fe7ab5eb0a351768abfd"),
                _domainnet("quickdraw", "bdc1b6f09f277da1a263389efe0c7a66"),
                _domainnet("real", "dcc47055e8935767784b7162e7c7cca6"),
                _domainnet("sketch", "658d8009644040ff7ce30bb2e820850f"),
            ),
            images=22_851,
            megabytes=18_500,
            licence="fair use notice: non-commercial research and education",
            known="http://ai.bu.edu/M3SDA and FedBN's README; MD5s, alike: awslabs/Renate, "
            "shift-happens-benchmark/icml-2022; the number of images: the lists in tfzhou/FedFA",
        ),
        "fed_isic2019": Source(
            title="Fed-ISIC2019, six centres",
            makes=("fed_isic2019",),
            files=(
                Remote(
                    "ISIC_2019_Training_Input.zip",
                    "https://isic-challenge-data.s3.amazonaws.com/2019/ISIC_2019_Training_Input.zip",
                ),
                Remote(
                    "train_test_split",
                    f"{_FLAMBY}/train_test_split",
                    "sha256:d0f9d0d0102f60d78b4c5f9f0ef32100881a8e92fe6c38644f980b3eb4e1a86c",
                ),
            ),
            images=23_247,
            megabytes=9_000,
            licence="CC BY-NC 4.0; accept ISIC 2019's terms (challenge.isic-archive.com/data) and HAM10000's first",
            known="owkin/FLamby, commit edacf54; the digest is of that commit's file",
        ),
    }
)
"""The sets by name."""
