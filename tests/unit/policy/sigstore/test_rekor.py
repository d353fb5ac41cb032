"""The log's promises: read strictly, or refused with our error whatever the bytes."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_image_proxy.errors import SignatureRejectedError
from container_image_proxy.policy.pem import parse_single_pem
from container_image_proxy.policy.sigstore.rekor import parse_log_entry, verify_set
from tests.support.sigstore import SIGNED_AT, encode, make_bundle, make_key, public_pem, sign
from tests.support.verification import make_budget

KEY, LOG = make_key(), make_key()
PAYLOAD = b"payload"
SIGNATURE = sign(KEY, PAYLOAD)
BUNDLE = make_bundle(LOG, public_pem(KEY), SIGNATURE, PAYLOAD)


def verify(bundle: bytes) -> float:
    signer = parse_single_pem(public_pem(KEY), "the key")
    return verify_set(
        bundle, (LOG.public_key(),), signer=signer, signature=SIGNATURE, payload=PAYLOAD, budget=make_budget()
    ).timestamp()


def signed_entry(body: object) -> bytes:
    """A bundle whose entry has this body, properly signed by the log."""
    entry = {"body": encode(json.dumps(body).encode()), "integratedTime": 1, "logID": "id", "logIndex": 2}
    signed = json.dumps(entry, separators=(",", ":"), sort_keys=True).encode()
    return json.dumps({"SignedEntryTimestamp": encode(sign(LOG, signed)), "Payload": entry}).encode()


def test_a_promise_tells_when_it_was_made() -> None:
    assert verify(BUNDLE.encode()) == SIGNED_AT.timestamp()


def test_the_order_and_spacing_of_the_entry_do_not_matter() -> None:
    bundle = json.loads(BUNDLE)
    shuffled = {"Payload": dict(reversed(bundle["Payload"].items())), **bundle}
    assert verify(json.dumps(shuffled, indent=7).encode()) == SIGNED_AT.timestamp()


@pytest.mark.parametrize("key", ["body", "integratedTime", "logID", "logIndex"])
def test_nothing_of_the_entry_can_be_changed(key: str) -> None:
    bundle = json.loads(BUNDLE)
    value = bundle["Payload"][key]
    bundle["Payload"][key] = value + 1 if isinstance(value, int) else value + "A"
    with pytest.raises(SignatureRejectedError, match="not signed by a trusted log"):
        verify(json.dumps(bundle).encode())


@pytest.mark.demand("JSON-duplicate-keys")
def test_a_repeated_key_is_refused() -> None:
    with pytest.raises(SignatureRejectedError, match="malformed"):
        verify(BUNDLE.replace('"logIndex"', '"logIndex": 0, "logIndex"').encode())


@pytest.mark.parametrize("place", ['{"SignedEntryTimestamp"', '{"body"'])
def test_an_unknown_key_is_refused(place: str) -> None:
    with pytest.raises(SignatureRejectedError, match="unknown key"):
        verify(BUNDLE.replace(place, '{"unknown": 1, ' + place[1:]).encode())


def test_a_hash_that_is_not_sha256_is_refused() -> None:
    spec = {"data": {"hash": {"algorithm": "sha512", "value": "aa"}}, "signature": {}}
    with pytest.raises(SignatureRejectedError, match="not SHA-256"):
        verify(signed_entry({"kind": "hashedrekord", "apiVersion": "0.0.1", "spec": spec}))


def test_an_entry_of_another_kind_is_refused() -> None:
    with pytest.raises(SignatureRejectedError, match=r"only hashedrekord 0\.0\.1 is supported"):
        verify(signed_entry({"kind": "intoto", "apiVersion": "0.0.1", "spec": {}}))


def test_the_signed_bytes_are_canonical_json() -> None:
    entry = parse_log_entry({"logIndex": 1.0, "logID": 'ä"\\\n\x1f\x7f', "integratedTime": 2, "body": "Ym9keQ=="})
    canonical = '{"body":"Ym9keQ==","integratedTime":2,"logID":"ä\\"\\\\\\n\\u001f\x7f","logIndex":1}'
    assert entry.signed_bytes == canonical.encode()


KEYS = (
    "SignedEntryTimestamp Payload body integratedTime logID logIndex kind apiVersion spec data hash algorithm value "
    "signature content publicKey"
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner),
    max_leaves=20,
)


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()) | JSON.map(signed_entry))
def test_no_bytes_but_the_logs_own_promise_are_believed(raw: bytes) -> None:
    with pytest.raises(SignatureRejectedError):
        verify(raw)


@given(st.integers(0, len(BUNDLE) - 1), st.characters())
def test_a_damaged_promise_is_refused_or_means_the_same(position: int, character: str) -> None:
    damaged = BUNDLE[:position] + character + BUNDLE[position + 1 :]
    with contextlib.suppress(SignatureRejectedError):
        assert verify(damaged.encode("utf-8", "surrogatepass")) == SIGNED_AT.timestamp()
