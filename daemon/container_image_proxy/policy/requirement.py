"""What a policy can require of an image, and how it is written (containers-policy.json(5), "Policy Requirements").

Pure data and its strict parsing; whether an image satisfies a requirement is ``evaluate``'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from msgspec import Struct

from container_image_proxy.errors import InvalidInputError
from container_image_proxy.policy.fields import Fields
from container_image_proxy.policy.identity import MATCH_REPO_DIGEST_OR_EXACT, SignedIdentity, parse_identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from container_image_proxy.image.signature import SignatureKind
    from container_image_proxy.policy.key_source import KeySource

KEY_TYPES: Final = ("GPGKeys", "signedByGPGKeys", "X509Certificates", "signedByX509CAs")


class InsecureAcceptAnything(Struct, frozen=True):
    """Any image will do."""

    type: ClassVar[str] = "insecureAcceptAnything"


class Reject(Struct, frozen=True):
    """No image will do."""

    type: ClassVar[str] = "reject"


class SignedBy(Struct, frozen=True):
    """A simple signing signature by one of the OpenPGP keys, for the right identity."""

    type: ClassVar[str] = "signedBy"
    signature_kind: ClassVar[SignatureKind] = "simple"
    key_type: str
    keys: KeySource
    identity: SignedIdentity


class SignedBaseLayer(Struct, frozen=True):
    """Part of the format since its beginning, but no implementation defines how it is satisfied: it never is."""

    type: ClassVar[str] = "signedBaseLayer"
    identity: SignedIdentity


class Fulcio(Struct, frozen=True):
    """Signers with a short-lived certificate from a Fulcio CA, for this e-mail address as that OIDC issuer vouched."""

    ca: KeySource
    oidc_issuer: str
    subject_email: str


class Pki(Struct, frozen=True):
    """Signers with a certificate from an ordinary CA, issued to this e-mail address and/or host name."""

    roots: KeySource
    intermediates: KeySource | None
    subject_email: str | None
    subject_hostname: str | None


class SigstoreSigned(Struct, frozen=True):
    """A sigstore signature by a trusted signer for the right identity; also logged, if ``rekor`` says by whose log."""

    type: ClassVar[str] = "sigstoreSigned"
    signature_kind: ClassVar[SignatureKind] = "sigstore"
    signer: KeySource | Fulcio | Pki
    rekor: KeySource | None
    identity: SignedIdentity


Requirement: TypeAlias = InsecureAcceptAnything | Reject | SignedBy | SignedBaseLayer | SigstoreSigned


def parse_requirements(fields: Fields, key: str) -> tuple[Requirement, ...]:
    """Read a non-empty list of requirements; :class:`InvalidInputError` names the place and what is wrong."""
    place = f"{fields.place}.{key}" if fields.place else key
    return tuple(_parse_requirement(value, f"{place}[{i}]") for i, value in enumerate(fields.items(key)))


def _parse_requirement(value: object, place: str) -> Requirement:
    fields = Fields(value, place)
    kind = fields.text("type")
    if kind not in _PARSERS:
        raise InvalidInputError(f"{place}: unknown requirement type {kind[:100]!r}; known are {', '.join(_PARSERS)}")
    requirement = _PARSERS[kind](fields)
    fields.done()
    return requirement


def _parse_signed_by(fields: Fields) -> SignedBy:
    key_type = fields.text("keyType")
    if key_type not in KEY_TYPES:
        raise InvalidInputError(f"{fields.place}.keyType: {key_type[:100]!r} is none of {', '.join(KEY_TYPES)}")
    keys = fields.required_source(path="keyPath", paths="keyPaths", data="keyData", may_be_empty=True)
    return SignedBy(key_type, keys, _parse_signed_identity(fields))


def _parse_signed_base_layer(fields: Fields) -> SignedBaseLayer:
    return SignedBaseLayer(parse_identity(fields.take("baseLayerIdentity"), f"{fields.place}.baseLayerIdentity"))


def _parse_sigstore_signed(fields: Fields) -> SigstoreSigned:
    keys = fields.source(path="keyPath", paths="keyPaths", data="keyData", datas="keyDatas")
    fulcio = _parse_fulcio(fields.fields("fulcio")) if fields.has("fulcio") else None
    pki = _parse_pki(fields.fields("pki")) if fields.has("pki") else None
    signers = [signer for signer in (keys, fulcio, pki) if signer is not None]
    if len(signers) != 1:
        raise InvalidInputError(
            f"{fields.place}: exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio, pki must be given"
        )
    rekor = fields.source(
        path="rekorPublicKeyPath",
        paths="rekorPublicKeyPaths",
        data="rekorPublicKeyData",
        datas="rekorPublicKeyDatas",
    )
    if fulcio and not rekor:
        raise InvalidInputError(
            f"{fields.place}: fulcio needs rekorPublicKeyPath, rekorPublicKeyPaths, ...Data or ...Datas"
        )
    if pki and rekor:
        raise InvalidInputError(f"{fields.place}: pki cannot be combined with a Rekor key")
    return SigstoreSigned(signers[0], rekor, _parse_signed_identity(fields))


def _parse_fulcio(fields: Fields) -> Fulcio:
    ca = fields.required_source(path="caPath", data="caData")
    fulcio = Fulcio(ca, fields.text("oidcIssuer"), fields.text("subjectEmail"))
    if not fulcio.oidc_issuer or not fulcio.subject_email:
        raise InvalidInputError(f"{fields.place}: oidcIssuer and subjectEmail must not be empty")
    fields.done()
    return fulcio


def _parse_pki(fields: Fields) -> Pki:
    pki = Pki(
        roots=fields.required_source(path="caRootsPath", data="caRootsData"),
        intermediates=fields.source(path="caIntermediatesPath", data="caIntermediatesData"),
        subject_email=fields.optional_text("subjectEmail"),
        subject_hostname=fields.optional_text("subjectHostname"),
    )
    if not pki.subject_email and not pki.subject_hostname:
        raise InvalidInputError(f"{fields.place}: at least one of subjectEmail and subjectHostname must be given")
    fields.done()
    return pki


def _parse_signed_identity(fields: Fields) -> SignedIdentity:
    if not fields.has("signedIdentity"):
        return MATCH_REPO_DIGEST_OR_EXACT
    return parse_identity(fields.take("signedIdentity"), f"{fields.place}.signedIdentity")


_PARSERS: Final[dict[str, Callable[[Fields], Requirement]]] = {
    InsecureAcceptAnything.type: lambda _fields: InsecureAcceptAnything(),
    Reject.type: lambda _fields: Reject(),
    SignedBy.type: _parse_signed_by,
    SignedBaseLayer.type: _parse_signed_base_layer,
    SigstoreSigned.type: _parse_sigstore_signed,
}
