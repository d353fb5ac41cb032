"""Makers of images in each format that a transport reads, for the one suite that tests all transports alike.

``tests/functional/test_transports.py`` takes every maker of ``MAKERS``. To add a format: write a module here with a
:class:`Maker` for our own writer, and one for each tool of Debian's that writes the format, and list them below.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from tests.support.makers.maker import Made, Maker, Spot
from tests.support.requirements import needs_programs

__all__ = ["MAKERS", "Made", "Maker", "Spot", "makers"]

_MODULES = ("oci", "directory", "archives", "storage", "tarball")


def _all() -> Iterator[Maker]:
    for name in _MODULES:
        yield from importlib.import_module(f"tests.support.makers.{name}").MAKERS


MAKERS: tuple[Maker, ...] = tuple(_all())


FIRST = frozenset({"oci", "dir", "oci-archive", "docker-archive", "storage-overlay", "tarball"})
"""One maker of each transport."""


def makers(*capabilities: str, own: bool = False, each_once: bool = False) -> pytest.MarkDecorator:
    """Parametrise a test's ``maker`` over all that have these attributes, such as ``make_list``.

    ``own`` leaves those out that need another program: what such a program writes differs in what it writes, not in
    how it is read. ``each_once`` leaves one of each transport.
    """
    able = [one for one in MAKERS if all(getattr(one, capability) for capability in capabilities)]
    chosen = [one for one in able if not own or not {"skopeo", "umoci", "podman", "buildah"}.intersection(one.programs)]
    chosen = [one for one in chosen if not each_once or one.name in FIRST]
    parameters = [pytest.param(one, marks=needs_programs(*one.programs), id=one.name) for one in chosen]
    return pytest.mark.parametrize("maker", parameters)
