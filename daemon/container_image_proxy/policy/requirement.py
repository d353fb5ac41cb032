"""The requirements of a policy, and their written form (containers-policy.json(5), "Policy Requirements").

The public types are values. The private types declare the JSON form, and their ``read()`` makes the value.
``evaluator`` decides whether an image satisfies a requirement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from container_image_proxy.errors import MalformedDocumentError
from container_image_proxy.image.documents import Base64, NonEmpty, Written, convert
from container_image_proxy.policy.identity import MATCH_REPO_DIGEST_OR_EXACT, SignedIdentity, WrittenIdentity
from container_image_proxy.policy.key_source import KeySource, find_source, require_source

if TYPE_CHECKING:
    from container_image_proxy.errors import KeyPath
    from container_image_proxy.image.signature import SignatureKind

KeyType: TypeAlias = Literal["GPGKeys", "signedByGPGKeys", "X509Certificates", "signedByX509CAs"]


class InsecureAcceptAnything(Struct, frozen=True):
    """Every image satisfies it."""

    type: ClassVar[str] = "insecureAcceptAnything"


class Reject(Struct, frozen=True):
    """No image satisfies it."""

    type: ClassVar[str] = "reject"


class SignedBy(Struct, frozen=True):
    """A simple signing signature by one of the OpenPGP keys that claims the right identity."""

    type: ClassVar[str] = "signedBy"
    signature_kind: ClassVar[SignatureKind] = "simple"
    key_type: KeyType
    keys: KeySource
    identity: SignedIdentity


class SignedBaseLayer(Struct, frozen=True):
    """A part of the format that no implementation defines. No image satisfies it."""

    type: ClassVar[str] = "signedBaseLayer"
    identity: SignedIdentity


class Fulcio(Struct, frozen=True):
    """Signers with a short-lived certificate of a Fulcio authority for this e-mail address and OIDC issuer."""

    ca: KeySource
    oidc_issuer: str
    subject_email: str


class Pki(Struct, frozen=True):
    """Signers with a certificate of an ordinary authority for this e-mail address, this host name, or both."""

    roots: KeySource
    intermediates: KeySource | None
    subject_email: str | None
    subject_hostname: str | None


class SigstoreSigned(Struct, frozen=True):
    """A sigstore signature by a trusted signer that claims the right identity.

    ``signer`` is a set of keys or a rule for certificates. If ``rekor`` is set, one of its keys must be that of a
    transparency log which has the signature.
    """

    type: ClassVar[str] = "sigstoreSigned"
    signature_kind: ClassVar[SignatureKind] = "sigstore"
    signer: KeySource | Fulcio | Pki
    rekor: KeySource | None
    identity: SignedIdentity


Requirement: TypeAlias = InsecureAcceptAnything | Reject | SignedBy | SignedBaseLayer | SigstoreSigned


def parse_requirements(value: object, path: KeyPath) -> tuple[Requirement, ...]:
    """Requirements from parsed JSON that stands at ``path``.

    :class:`MalformedDocumentError` unless a non-empty list.
    """
    if value == []:
        raise MalformedDocumentError("must not be empty", path)
    return tuple(written.read() for written in convert(value, tuple[_WrittenRequirement, ...], path))


class _InsecureAcceptAnything(Written, frozen=True, tag_field="type", tag=InsecureAcceptAnything.type):
    def read(self) -> InsecureAcceptAnything:
        return InsecureAcceptAnything()


class _Reject(Written, frozen=True, tag_field="type", tag=Reject.type):
    def read(self) -> Reject:
        return Reject()


class _SignedBaseLayer(Written, frozen=True, tag_field="type", tag=SignedBaseLayer.type, rename="camel"):
    base_layer_identity: WrittenIdentity

    def read(self) -> SignedBaseLayer:
        return SignedBaseLayer(self.base_layer_identity.read())


class _SignedBy(Written, frozen=True, tag_field="type", tag=SignedBy.type, rename="camel"):
    key_type: KeyType
    key_path: NonEmpty | UnsetType = UNSET
    key_paths: tuple[NonEmpty, ...] | UnsetType = UNSET
    key_data: Base64 | UnsetType = UNSET
    signed_identity: WrittenIdentity | UnsetType = UNSET

    def read(self) -> SignedBy:
        keys = require_source(self, "key_path", "key_paths", "key_data")
        return SignedBy(self.key_type, keys, _read_identity(self.signed_identity))


class _Fulcio(Written, frozen=True, rename="camel"):
    oidc_issuer: NonEmpty
    subject_email: NonEmpty
    ca_path: NonEmpty | UnsetType = UNSET
    ca_data: Base64 | UnsetType = UNSET

    def read(self) -> Fulcio:
        return Fulcio(require_source(self, "ca_path", "ca_data"), self.oidc_issuer, self.subject_email)


class _Pki(Written, frozen=True, rename="camel"):
    ca_roots_path: NonEmpty | UnsetType = UNSET
    ca_roots_data: Base64 | UnsetType = UNSET
    ca_intermediates_path: NonEmpty | UnsetType = UNSET
    ca_intermediates_data: Base64 | UnsetType = UNSET
    subject_email: NonEmpty | UnsetType = UNSET
    subject_hostname: NonEmpty | UnsetType = UNSET

    def read(self) -> Pki:
        if self.subject_email is UNSET and self.subject_hostname is UNSET:
            raise MalformedDocumentError("at least one of subjectEmail and subjectHostname must be given")
        return Pki(
            roots=require_source(self, "ca_roots_path", "ca_roots_data"),
            intermediates=find_source(self, "ca_intermediates_path", "ca_intermediates_data"),
            subject_email=self.subject_email or None,
            subject_hostname=self.subject_hostname or None,
        )


class _SigstoreSigned(Written, frozen=True, tag_field="type", tag=SigstoreSigned.type, rename="camel"):
    key_path: NonEmpty | UnsetType = UNSET
    key_paths: Annotated[tuple[NonEmpty, ...], Meta(min_length=1)] | UnsetType = UNSET
    key_data: Base64 | UnsetType = UNSET
    key_datas: Annotated[tuple[Base64, ...], Meta(min_length=1)] | UnsetType = UNSET
    fulcio: _Fulcio | UnsetType = UNSET
    pki: _Pki | UnsetType = UNSET
    rekor_public_key_path: NonEmpty | UnsetType = UNSET
    rekor_public_key_paths: Annotated[tuple[NonEmpty, ...], Meta(min_length=1)] | UnsetType = UNSET
    rekor_public_key_data: Base64 | UnsetType = UNSET
    rekor_public_key_datas: Annotated[tuple[Base64, ...], Meta(min_length=1)] | UnsetType = UNSET
    signed_identity: WrittenIdentity | UnsetType = UNSET

    def read(self) -> SigstoreSigned:
        signers: list[KeySource | Fulcio | Pki] = [written.read() for written in (self.fulcio, self.pki) if written]
        if (keys := find_source(self, "key_path", "key_paths", "key_data", "key_datas")) is not None:
            signers.append(keys)
        if len(signers) != 1:
            raise MalformedDocumentError(
                "exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, pki must be given"
            )
        rekor = find_source(self, *(f"rekor_public_key_{kind}" for kind in ("path", "paths", "data", "datas")))
        if self.fulcio and rekor is None:
            raise MalformedDocumentError(
                "fulcio needs rekorPublicKeyPath, rekorPublicKeyPaths, rekorPublicKeyData or rekorPublicKeyDatas"
            )
        if self.pki and rekor is not None:
            raise MalformedDocumentError("pki cannot be combined with a Rekor key")
        return SigstoreSigned(signers[0], rekor, _read_identity(self.signed_identity))


_WrittenRequirement: TypeAlias = _InsecureAcceptAnything | _Reject | _SignedBaseLayer | _SignedBy | _SigstoreSigned


def _read_identity(written: WrittenIdentity | UnsetType) -> SignedIdentity:
    return written.read() if written else MATCH_REPO_DIGEST_OR_EXACT
