"""Every error that a user can meet, in one tree.

::

    FedwonError
    ├── ConfigError          10  a configuration that cannot be read or is not valid
    │   ├── ConfigMissing    11  the file is not there
    │   ├── FolderTaken      12  a folder that should be new holds something already
    │   └── NotConvertible   13  a network with normalization that nothing can take the place of
    ├── DataError            20  images that cannot be used
    │   ├── DataMissing      21  the folder or file is not there
    │   ├── EmptyClass       22  a class without a readable image
    │   └── ClassMismatch    23  class names that differ from the federation's
    ├── LinkError            30  server and site cannot talk
    │   ├── PortInUse        31
    │   ├── Unreachable      32
    │   ├── WrongFingerprint 33  the server's CA is not the one named in the join command
    │   ├── VersionGap       34  peers more than one minor version apart
    │   ├── DuplicateSite    35  two clients with one identity
    │   └── Refused          36  the server does not accept this site or this request
    │       └── Revoked      37  the operator revoked the site's certificate
    ├── EnrolmentError       40
    │   ├── TokenUsed        41  unknown, or used before
    │   ├── TokenExpired     42
    │   ├── KeyExposed       43  a private key that others can read
    │   └── TooManyAttempts  44  too many attempts to join failed
    ├── StorageError         50
    │   ├── DiskFull         51
    │   ├── ModelMismatch    52  a model file whose tensors are not the network's
    │   └── BrokenFile       53  a file that is cut short or is not what its digest says
    ├── RunError             60
    │   ├── TooFewUpdates    61  a round that too few sites answered, too often
    │   ├── RunMissing       62  no such run, or nothing to resume
    │   ├── TaskFailed       63  a site could not do what it was asked
    │   ├── Stopped          64  the operator stopped the server in the middle of a run
    │   ├── OutOfMemory      65  a task that a site's memory does not suffice for
    │   ├── Unavailable      66  a site that may not work now, by its own schedule
    │   ├── BeyondLimits     67  a task that a site's own limits do not allow
    │   └── StaysRefused    69  a refused update that cannot count after all
    ├── MissingExtra         70  an optional package that is not installed
    ├── Unhealthy            80  a server or client that does not run, or hangs
    ├── ReleaseError         90  a release that cannot be made or used
    │   ├── ReleaseMissing   91  no such release, or none in use at this site
    │   ├── UntrustedRelease 92  a release that the federation did not sign as it is now
    │   └── NotReleasable    93  a model that must not become a release, or a release that must not be handed out
    ├── SecureError         100  secure aggregation that cannot go on
    │   ├── UnsafeRequest   101  a request that would uncover a site's update
    │   └── NotASum         102  masked updates that do not add up to what they can
    └── PrivacySpent        103  a task that would cost more privacy than the run or the site allows

The number is the exit code of the command that ends with the error. Each class has a page of the name `slug` in
`docs/errors/`. A message says what is wrong and where; `hint` says what to do next.
"""

from __future__ import annotations

from typing import ClassVar

DOCS = "docs/errors"


class FedwonError(Exception):
    """Base of all errors that a user can meet.

    Args:
        message: what is wrong and where, in one or two sentences.
        hint: what to do next; the class's own hint where it is left out.
    """

    code: ClassVar[int] = 1
    slug: ClassVar[str] = "error"
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    @property
    def page(self) -> str:
        """The page that explains this error, as a path in the project."""
        return f"{DOCS}/{self.slug}.md"


class ConfigError(FedwonError):
    """A configuration that cannot be read or is not valid."""

    code, slug = 10, "config"
    default_hint = "docs/configuration.md lists every key, its meaning and its range."


class ConfigMissing(ConfigError):
    """A configuration file that is not there."""

    code, slug = 11, "config-missing"
    default_hint = "Check the path, or make one: `fedwon-server init DIR`, or on a site the join command of `enroll`."


class FolderTaken(ConfigError):
    """A folder that should be new holds something already."""

    code, slug = 12, "folder-taken"
    default_hint = "Name another folder; nothing in this one was touched."


class NotConvertible(ConfigError):
    """A network with normalization that nothing can take the place of."""

    code, slug = 13, "not-convertible"
    default_hint = "`fedwon-server convert --explain` says it of every layer; docs/convert.md, what can be converted."


class DataError(FedwonError):
    """Images that cannot be used."""

    code, slug = 20, "data"
    default_hint = "docs/quickstart.md shows the layouts that a site can have."


class DataMissing(DataError):
    """An image folder or file that is not there."""

    code, slug = 21, "data-missing"
    default_hint = "Check `data.path` in client.yaml; `fedwon-client check` shows what it finds."


class EmptyClass(DataError):
    """A class without one readable image."""

    code, slug = 22, "empty-class"
    default_hint = "Put images into the folder or remove it; `fedwon-client check` counts images per class."


class ClassMismatch(DataError):
    """Class names that differ from the federation's."""

    code, slug = 23, "class-mismatch"
    default_hint = (
        "Rename the folder, or set `run.images.unknown_classes: skip` "
        "(`run.images.missing_classes: allow`) in server.yaml."
    )


class LinkError(FedwonError):
    """Server and site cannot talk."""

    code, slug = 30, "link"
    default_hint = "Run `fedwon-client check` on the site."


class PortInUse(LinkError):
    """A port to listen on that another process holds."""

    code, slug = 31, "port-in-use"
    default_hint = (
        "Is another fedwon-server running? Stop it, or change the port in server.yaml (and the sites' address)."
    )


class Unreachable(LinkError):
    """No answer from the server's address."""

    code, slug = 32, "unreachable"
    default_hint = "Check that the server runs, its address and port, and the firewall between."


class WrongFingerprint(LinkError):
    """The server's certificate authority is not the one named in the join command."""

    code, slug = 33, "wrong-fingerprint"
    default_hint = (
        "Ask the operator for a fresh `fedwon-server enroll` line. If it differs again, someone stands between."
    )


class VersionGap(LinkError):
    """Peers more than one minor version apart."""

    code, slug = 34, "version-gap"
    default_hint = "Upgrade the older side; server first, then the sites, one minor version at a time."


class DuplicateSite(LinkError):
    """Two clients with one identity."""

    code, slug = 35, "duplicate-site"
    default_hint = "Stop the other client, or enrol this box under a name of its own."


class Refused(LinkError):
    """The server does not accept this site or this request."""

    code, slug = 36, "refused"
    default_hint = "Ask the operator: `fedwon-server sites` shows who may take part."


class Revoked(Refused):
    """The operator revoked this site's certificate."""

    code, slug = 37, "revoked"
    default_hint = (
        "Ask the operator why. With a new line from `fedwon-server sites add SITE` this box can join again, in a new "
        "folder."
    )


class EnrolmentError(FedwonError):
    """A site could not be enrolled."""

    code, slug = 40, "enrolment"
    default_hint = "Ask the operator for a new token: `fedwon-server enroll SITE`."


class TokenUsed(EnrolmentError):
    """A join token that is unknown or was used before."""

    code, slug = 41, "token-used"


class TokenExpired(EnrolmentError):
    """A join token whose time is over."""

    code, slug = 42, "token-expired"


class KeyExposed(EnrolmentError):
    """A private key that others can read."""

    code, slug = 43, "key-exposed"
    default_hint = "`chmod 600` the file. If others had access to this machine, enrol again."


class TooManyAttempts(EnrolmentError):
    """Too many attempts to join failed."""

    code, slug = 44, "too-many-attempts"
    default_hint = "Wait as long as the message says. A good token is taken at any time: was this one copied whole?"


class StorageError(FedwonError):
    """Files or the database failed."""

    code, slug = 50, "storage"
    default_hint = "Check the disk and the permissions of the folder."


class DiskFull(StorageError):
    """No space left for a file that must be written."""

    code, slug = 51, "disk-full"
    default_hint = "Free some space and start again: what was committed before is kept (`--resume` on the server)."


class ModelMismatch(StorageError):
    """A model file whose tensors are not the network's."""

    code, slug = 52, "model-mismatch"
    default_hint = "Use a file of the same network, normalization, width and classes."


class BrokenFile(StorageError):
    """A file that is cut short or is not what its digest says."""

    code, slug = 53, "broken-file"
    default_hint = "Copy the file again, or use the one of the round before."


class RunError(FedwonError):
    """A federation could not go on."""

    code, slug = 60, "run"


class TooFewUpdates(RunError):
    """A round that too few sites answered, too often."""

    code, slug = 61, "too-few-updates"
    default_hint = "See which sites are missing with `fedwon-server sites`, then `fedwon-server start --resume`."


class RunMissing(RunError):
    """No such run, or nothing to resume."""

    code, slug = 62, "run-missing"
    default_hint = "`fedwon-server status` lists the runs."


class TaskFailed(RunError):
    """A site could not do what it was asked."""

    code, slug = 63, "task-failed"
    default_hint = "The site's log tells more; `fedwon-client check` finds most causes."


class Stopped(RunError):
    """The operator stopped the server in the middle of a run; committed rounds are kept."""

    code, slug = 64, "stopped"
    default_hint = "Go on where it stopped: `fedwon-server start --resume`."


class OutOfMemory(RunError):
    """A task that a site's memory does not suffice for."""

    code, slug = 65, "out-of-memory"
    default_hint = "Lower `batch_size` or `data.cache_mb` in client.yaml, or `images.size` or `model.width` in the run."


class Unavailable(RunError):
    """A site that may not work now, by its own schedule."""

    code, slug = 66, "unavailable"
    default_hint = "`fedwon-server sites` shows until when; the site's people decide it in `schedule` of client.yaml."


class BeyondLimits(RunError):
    """A task that a site's own limits do not allow."""

    code, slug = 67, "beyond-limits"
    default_hint = "Ask for less in the run, or let the site's people change `limits` in its client.yaml."


class StaysRefused(RunError):
    """A refused update that cannot count after all."""

    code, slug = 69, "stays-refused"
    default_hint = "`fedwon-server quarantine list` shows the refused updates, and why each was refused."


class MissingExtra(FedwonError):
    """An optional package that is not installed."""

    code, slug = 70, "missing-extra"


class Unhealthy(FedwonError):
    """A server or client that does not run, or hangs."""

    code, slug = 80, "unhealthy"
    default_hint = "Look at its log, then start it again; a service manager or a container's restart policy does so."


class ReleaseError(FedwonError):
    """A release that cannot be made or used."""

    code, slug = 90, "release"
    default_hint = "docs/releases.md shows the way of a model to the lines."


class ReleaseMissing(ReleaseError):
    """No such release, or none in use at this site."""

    code, slug = 91, "release-missing"
    default_hint = (
        "`fedwon-server releases` lists them; a site gets one by `fedwon-server promote RELEASE --site SITE`."
    )


class UntrustedRelease(ReleaseError):
    """A release that the federation did not sign as it is now; nothing of it was used."""

    code, slug = 92, "untrusted-release"
    default_hint = (
        "Do not use these files. Copy the release again from the server, or let the operator promote it again; if it "
        "happens again, ask who can write to that folder."
    )


class NotReleasable(ReleaseError):
    """A model that must not become a release, or a release that must not be handed out."""

    code, slug = 93, "not-releasable"
    default_hint = "Nothing was written. docs/releases.md says what a release needs."


class SecureError(FedwonError):
    """Secure aggregation that cannot go on."""

    code, slug = 100, "secure"
    default_hint = "docs/secure-aggregation.md says what it needs."


class UnsafeRequest(SecureError):
    """A request, in secure aggregation, that could uncover a site's update; the site does not answer it."""

    code, slug = 101, "unsafe-request"
    default_hint = "The round goes on without the site. docs/secure-aggregation.md says what sites refuse, and why."


class NotASum(SecureError):
    """Masked updates whose masks cannot be taken off, or that add up to more than honest ones can."""

    code, slug = 102, "not-a-sum"
    default_hint = "The model is untouched. docs/secure-aggregation.md says how to find the site that is at fault."


class PrivacySpent(FedwonError):
    """A task that would cost more privacy than the run or the site allows."""

    code, slug = 103, "privacy-spent"
    default_hint = (
        "More noise, fewer steps or a smaller batch cost less (`privacy.examples` in the run); what is spent stays "
        "spent. The site's own limit is `privacy.most_epsilon` in client.yaml."
    )


def all_errors() -> list[type[FedwonError]]:
    """List every error class, base first."""
    found: list[type[FedwonError]] = [FedwonError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


def by_slug(slug: str) -> type[FedwonError]:
    """Return the error class of that slug, or FedwonError for one that this version does not know."""
    return next((kind for kind in all_errors() if kind.slug == slug), FedwonError)
