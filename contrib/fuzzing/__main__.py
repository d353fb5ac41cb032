"""The command line of ``contrib/fuzz``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["container_image_proxy"]):
    from fuzzing.targets import TARGETS, run


def main() -> None:
    """Fuzz the target that the first argument names; the others are libFuzzer's."""
    if len(sys.argv) == 1 or sys.argv[1] not in TARGETS:
        print("\n".join(f"{name:<18}{target.__doc__}" for name, target in TARGETS.items()))
        sys.exit(len(sys.argv) > 1)
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda data: run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
