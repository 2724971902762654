"""A release: a model made ready for the lines, and the federation's signature under what it is.

A folder with these files, of which the first two say all about the others:

* `manifest.json`: what the model is, where it comes from, and the digest of every other file (`Manifest`).
* `manifest.sig`: the federation's authority signed the bytes of `manifest.json`: ECDSA over SHA-256, as DER. Nothing
  of fedwon's is needed to check it: `openssl dgst -sha256 -verify` with the public key of `ca.pem`.
* `model.onnx`: float32 (N, channels, size, size) named `images` to float32 (N, classes) named `logits`.
* `model.safetensors`: the same weights, for whoever has PyTorch.
* `model-int8.onnx`, where it was asked for.

Nothing here needs torch, Flower or gRPC: an edge box that only predicts has none of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from fedwon.common.certificates import read_certificates
from fedwon.common.config import Settings, parse
from fedwon.common.errors import ReleaseMissing, StorageError, UntrustedRelease
from fedwon.common.files import read_bytes
from fedwon.common.task_settings import ImageConfig

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
ONNX, ONNX_INT8, WEIGHTS = "model.onnx", "model-int8.onnx", "model.safetensors"
INPUT, OUTPUT = "images", "logits"
LARGEST_MANIFEST = 4 * 2**20
LARGEST_SIGNATURE = 1024
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
_FILE = r"^[A-Za-z0-9][A-Za-z0-9_-]*\.(onnx|safetensors)$"
_DIGEST = r"^[0-9a-f]{64}$"


class _Signed(Settings, extra="ignore"):
    """What a later version may add to is read without the additions."""


class ReleasedFile(_Signed):
    """A file of a release."""

    sha256: str = Field(pattern=_DIGEST)
    """Digest of the whole file, hexadecimal."""
    size: int = Field(gt=0)
    """Bytes."""


class Parity(_Signed):
    """How far an exported model is from the trained one, by the outputs for the same images."""

    images: int = Field(ge=1)
    """How many images were compared."""
    source: str
    """Which images these were, in words."""
    largest_difference: float = Field(ge=0)
    """Largest difference of an output (logit), in absolute value."""
    largest_output: float = Field(ge=0)
    """Largest output of the trained model, in absolute value."""
    limit: float = Field(ge=0)
    """The release would have been refused above this: a largest difference over the largest output, or, for int8, a
    share of images with another class."""
    same_class: int = Field(ge=0)
    """Images for which both give the same class."""


class SiteScore(_Signed):
    """How the model did at one site, as the site measured it in the run."""

    part: str
    """`test` or `validation`."""
    correct: int
    """Images classified rightly."""
    examples: int
    """Images."""
    accuracy: float
    """Share of them, 0 to 1."""
    loss: float
    """Mean cross entropy."""


class Manifest(_Signed):
    """What a release is."""

    format: Literal[1]
    """Form of this file."""
    name: str = Field(pattern=NAME)
    """The release's name, also of its folder."""
    federation: str
    """Whose it is."""
    made: str
    """When, in UTC (ISO 8601)."""
    run: str
    """The run that trained the model."""
    round: int
    """The round after which it was taken."""
    method: str
    """The federated method."""
    checkpoint: str
    """SHA-256 of the model file of that round."""
    configuration: str
    """SHA-256 of the run's configuration, as JSON with sorted keys and no spaces."""
    versions: dict[str, str]
    """What made it: fedwon and the libraries."""
    previous: str | None
    """The release before, if there is one."""
    classes: tuple[str, ...] = Field(min_length=2)
    """Class names in the order of the outputs."""
    preprocessing: ImageConfig
    """How images become inputs: decoded to 8 bits, squeezed to size x size (bilinear, antialiased), scaled to [0, 1],
    less `mean`, over `std`; as `fedwon.common.pixels` says, bit for bit."""
    task: dict[str, Any]
    """The whole task as the sites were told it: network, images, seed of the split."""
    metrics: dict[str, SiteScore]
    """What the sites measured of this very model, by site."""
    data: dict[str, dict[str, dict[str, int]]]
    """Images that each site had: site, class, part."""
    parity: dict[str, Parity]
    """By ONNX file."""
    privacy: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What the run had cost in differential privacy when the release was made: `sites` and `examples`, each with noise,
    clip, delta, the highest epsilon and epsilon by site; empty for a run without."""
    files: dict[str, ReleasedFile] = Field(min_length=1)
    """Every file but the manifest and its signature."""


@dataclass(frozen=True)
class Release:
    """A release whose signature and files were found right.

    Attributes:
        folder: where it lies.
        manifest: what it is.
    """

    folder: Path
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """Return the content of a file, checked again: what is used is what was signed.

        Raises:
            UntrustedRelease: the release has no such file, or it is another one by now.
        """
        wanted = self.manifest.files.get(name)
        if wanted is None:
            raise UntrustedRelease(f"Release {self.manifest.name} has no file {name}.")
        content = _content(self.folder / name, wanted.size)
        if hashlib.sha256(content).hexdigest() != wanted.sha256:
            raise UntrustedRelease(f"{self.folder / name} is not the file that was signed (its digest differs).")
        return content


def sign(manifest: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign the bytes of a manifest; returns the signature as DER.

    A manifest begins with `{` and what an authority signs otherwise, the inner part of a certificate, with the byte
    0x30: neither can be taken for the other.
    """
    return key.sign(manifest, ec.ECDSA(hashes.SHA256()))


def check_signature(manifest: bytes, signature: bytes, authorities: bytes, where: str) -> None:
    """Check that one of the federation's authorities signed a manifest.

    Args:
        manifest: the bytes of `manifest.json`.
        signature: the bytes of `manifest.sig`.
        authorities: certificates as PEM, such as a site's `pki/ca.pem`.
        where: what the messages call it.

    Raises:
        UntrustedRelease: none of them did.
        BrokenFile: there is no certificate in `authorities`.
    """
    for certificate in read_certificates(authorities, "the federation's authority (ca.pem)"):
        public = certificate.public_key()
        if isinstance(public, ec.EllipticCurvePublicKey) and manifest[:1] == b"{":
            try:
                public.verify(signature, manifest, ec.ECDSA(hashes.SHA256()))
            except InvalidSignature:
                continue
            return
    raise UntrustedRelease(
        f"{where}: its manifest was changed, or it is a release of another federation: the signature is none of this "
        f"federation's authority."
    )


def read_manifest(folder: Path, authorities: bytes) -> Manifest:
    """Read what a release is, after its signature was found right; its files are not looked at.

    Raises:
        ReleaseMissing: there is no release in that folder.
        UntrustedRelease: the signature is not the federation's.
        ConfigError: a later version of fedwon made it.
    """
    if not (folder / MANIFEST).is_file():
        raise ReleaseMissing(f"{folder} holds no release (it has no {MANIFEST}).")
    if not (folder / SIGNATURE).is_file():
        raise UntrustedRelease(f"{folder} holds a manifest that nobody signed (it has no {SIGNATURE}).")
    content = _content(folder / MANIFEST, LARGEST_MANIFEST)
    check_signature(content, _content(folder / SIGNATURE, LARGEST_SIGNATURE), authorities, str(folder))
    return parse_manifest(content, str(folder / MANIFEST))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Read the bytes of a manifest, whose signature the caller has checked.

    Raises:
        ConfigError: a later version of fedwon made it.
        UntrustedRelease: it is no manifest at all.
    """
    try:
        decoded = json.loads(content)
    except (ValueError, RecursionError):
        raise UntrustedRelease(f"{where} is no manifest: it is not JSON.") from None
    manifest = parse(Manifest, decoded if isinstance(decoded, Mapping) else {}, where)
    for name in manifest.files:
        if re.fullmatch(_FILE, name) is None:
            raise UntrustedRelease(f"{where} names a file {name[:80]!r}, which no release of this version has.")
    return manifest


def open_release(folder: Path, authorities: bytes) -> Release:
    """Open a release: its signature, then the digest of every file.

    Args:
        folder: where it lies.
        authorities: certificates as PEM, such as a site's `pki/ca.pem`.

    Raises:
        ReleaseMissing: there is no release in that folder.
        UntrustedRelease: a byte of the manifest, its signature or a file is not what the federation signed.
        BrokenFile: there is no certificate in `authorities`.
    """
    release = Release(folder, read_manifest(folder, authorities))
    for name in release.manifest.files:
        release.read(name)
    return release


def _content(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes."""
    try:
        size = path.stat().st_size
    except OSError:
        raise UntrustedRelease(f"{path} is missing from the release.") from None
    if size > most:
        raise UntrustedRelease(f"{path} has {size} bytes and is not the file that was signed.")
    try:
        return read_bytes(path)
    except StorageError as error:
        raise UntrustedRelease(f"A file of the release cannot be read: {error.message}") from None
