"""What is wrong with a signature is told as ``signature from SOURCE: SENTENCE``: each text is a whole sentence."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import container_image_proxy.policy

# The subject of the sentence: the signature ("it"), what is in it, or a name that is put in front ({what}).
_SENTENCE = re.compile(r"(it|its [a-z ]+|what it signs|the [A-Za-z' ]+|gpg|\{\}|not all keys) \S")


def _texts() -> list[tuple[str, str]]:
    """The text that each ``raise SignatureRejectedError`` begins with, values as ``{}``."""
    found = []
    for module in sorted(Path(container_image_proxy.policy.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                name, text = node.func.id, node.args[0] if node.args else None
                if name in {"SignatureRejectedError", "rejected_because", "MessageTooLargeError"}:
                    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                    words = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
                    found.append((f"{module.name}:{node.lineno}", "".join(map(str, words))))
    return found


def test_the_texts_are_found() -> None:
    assert len(_texts()) > 50


@pytest.mark.parametrize(("place", "text"), [pytest.param(*found, id=found[0]) for found in _texts()])
def test_a_complaint_of_a_signature_is_a_sentence(place: str, text: str) -> None:
    assert text == "{}" or text.startswith("{}: ") or _SENTENCE.match(text), place
