"""``container-image-proxy experimental-image-proxy``: the options of skopeo's command of that name (contrib/adr/0040).

As with skopeo, global options may precede the command's word; here all options may. An option that restricts something
and is not supported is an error, because to ignore it would do more than the client allows.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from container_image_proxy.cli.exit_codes import UsageError
from container_image_proxy.cli.options import (
    IMAGE_PROXY,
    IMAGE_PROXY_FLAGS,
    Parser,
    daemon_host,
    override_platform,
    parse_creds,
)
from container_image_proxy.config.instances import (
    COMMAND_LINE,
    InstanceSettings,
    RegistrySettings,
    SourceSettings,
    TrustSettings,
    host_platform,
)
from container_image_proxy.errors import ConfigurationError
from container_image_proxy.image.confidential import Confidential
from container_image_proxy.registry.auth.keychain import Credentials

if TYPE_CHECKING:
    from collections.abc import Sequence

    from container_image_proxy.image.platform import Platform

_MAX_AUTH_FILE: Final = 1 << 20
"""Bytes of an inherited file of credentials, which is held in memory."""
_INHERITED: Final = ("/proc/self/fd/", "/dev/fd/")
_TRUTH: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
"""The boolean values of skopeo's options (Go's strconv.ParseBool)."""
_REFUSED: Final = {
    "decryption_key": "encrypted images cannot be served: open a copy that skopeo copy --decryption-key has made",
    "require_signed": "say in policy.json which images have to be signed",
    "tls_details": "the versions and ciphers of TLS are those of the system's OpenSSL configuration",
    "command_timeout": "end the process when its time is over, or use timeout(1)",
}


class ImageProxyOptions(Confidential, frozen=True):
    """The meaning of a command line. ``auth_content`` is the content of an inherited ``--authfile``; None if none."""

    sockfd: int
    settings: InstanceSettings
    platform: Platform
    log_level: int
    credentials: Credentials | None
    no_credentials: bool
    auth_content: bytes | None


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command's options. It raises :class:`UsageError`."""
    parser = Parser(
        prog=f"container-image-proxy {IMAGE_PROXY}",
        description="Serve whatever images the parent process names, over skopeo's image proxy protocol.",
        allow_abbrev=False,
        argument_default=None,
    )
    parser.add_argument(
        "word", choices=[IMAGE_PROXY], metavar=IMAGE_PROXY, help="the command itself; options may stand before it"
    )
    parser.add_argument("--sockfd", type=int, default=0, metavar="N", help="the socket (default 0, standard input)")
    parser.add_argument("--authfile", type=Path, metavar="FILE", help="credentials, as containers-auth.json(5)")
    parser.add_argument("--creds", metavar="USER[:PASSWORD]", help="credentials for the registries that are named")
    parser.add_argument("--username", metavar="USER", help="the same in two options")
    parser.add_argument("--password", metavar="PASSWORD")
    parser.add_argument("--registry-token", metavar="TOKEN", help="a Bearer token for the registries that are named")
    parser.add_argument("--no-creds", type=_truth, metavar="BOOL", help="access registries anonymously")
    parser.add_argument("--cert-dir", type=Path, metavar="DIR", help="CA and client certificates for registries")
    parser.add_argument("--tls-verify", type=_truth, metavar="BOOL", help="require HTTPS and verify it")
    parser.add_argument("--shared-blob-dir", type=Path, metavar="DIR", help="where oci: layouts have their blobs")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="signature policy")
    parser.add_argument("--insecure-policy", type=_truth, metavar="BOOL", help="accept any image")
    parser.add_argument("--registries-conf", type=Path, metavar="FILE", help="mirrors, blocked and insecure registries")
    parser.add_argument("--registries-conf-dir", type=Path, metavar="DIR", help="drop-ins of the same")
    parser.add_argument("--registries.d", dest="registries_d", type=Path, metavar="DIR", help="where signatures are")
    parser.add_argument("--override-os", metavar="OS", help="choose for this operating system from an index")
    parser.add_argument("--override-arch", metavar="ARCH", help="choose for this architecture")
    parser.add_argument("--override-variant", metavar="VARIANT", help="choose for this variant of the architecture")
    parser.add_argument(
        "--user-agent-prefix", type=_header_text, metavar="TEXT", help="what registries are told first of who asks"
    )
    parser.add_argument("--tmpdir", type=Path, metavar="DIR", help="where compressed archives are unpacked")
    parser.add_argument("--daemon-host", type=daemon_host, metavar="HOST", help="where the Docker daemon is")
    parser.add_argument("--debug", type=_truth, metavar="BOOL", help="log more")
    for name in _REFUSED:
        parser.add_argument("--" + name.replace("_", "-"), action="append", help=argparse.SUPPRESS)
    return parser


def _truth(text: str) -> bool:
    try:
        return _TRUTH[text]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from None


def _header_text(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError(f"{text!r} cannot stand in a header")
    return text.strip()


def own_home(home: str, uid: int) -> Path:
    """The home directory that ``HOME`` names, or ``/`` if it belongs to another user and is closed to us.

    Clients that run as root start the proxy as nobody, and some leave root's HOME in the environment.
    """
    with contextlib.suppress(OSError):
        if os.stat(home).st_uid != uid and not os.access(home, os.X_OK):  # noqa: PTH116 - Path has no access()
            return Path("/")
    return Path(home or "/")


def parse_options(arguments: Sequence[str]) -> ImageProxyOptions:
    """The meaning of the arguments.

    Raises :class:`UsageError` if they are wrong or an option is not supported, and :class:`ConfigurationError` if an
    inherited ``--authfile`` cannot be read.
    """
    # A flag has a value only by "=". argparse would take the next word for the value, so each flag gets one here.
    spelled = [f"{one}=true" if one in IMAGE_PROXY_FLAGS and one not in {"-h", "--help"} else one for one in arguments]
    options = build_parser().parse_args(spelled)
    for name, remedy in _REFUSED.items():
        values = getattr(options, name)
        if values and values != ["false"]:
            raise UsageError(f"--{name.replace('_', '-')} is not supported: {remedy}")
    return ImageProxyOptions(
        sockfd=options.sockfd,
        settings=_settings(options),
        platform=override_platform(host_platform(), options),
        log_level=logging.DEBUG if options.debug else logging.WARNING,
        credentials=_credentials(options),
        no_credentials=bool(options.no_creds),
        auth_content=_read_inherited(options.authfile),
    )


def _settings(options: argparse.Namespace) -> InstanceSettings:
    return InstanceSettings(
        IMAGE_PROXY,
        COMMAND_LINE,
        {},
        None,
        RegistrySettings(
            authfile=options.authfile,
            cert_dir=options.cert_dir,
            registries_conf=options.registries_conf,
            registries_conf_dir=options.registries_conf_dir,
            tls_verify=options.tls_verify,
            user_agent_prefix=options.user_agent_prefix or "",
            shared_blob_dir=options.shared_blob_dir,
        ),
        TrustSettings(
            policy=options.policy,
            registries_d=options.registries_d,
            insecure_policy=bool(options.insecure_policy),
        ),
        SourceSettings(cache_dir=options.tmpdir, daemon_host=options.daemon_host, daemon_cert_dir=options.cert_dir),
        idle_exit=0,
    )


def _credentials(options: argparse.Namespace) -> Credentials | None:
    """The credentials of the command line; None if it has none. Raises :class:`UsageError` if it has several."""
    if (options.username is None) != (options.password is None):
        raise UsageError("--username and --password belong together")
    given = {
        "--creds": options.creds,
        "--username": options.username,
        "--registry-token": options.registry_token,
        "--no-creds": options.no_creds or None,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} cannot both be given")
    if options.registry_token is not None:
        return Credentials("", "", "", "--registry-token", options.registry_token)
    if options.username is not None:
        return Credentials(options.username, options.password, "", "--username")
    if options.creds is not None:
        return parse_creds(options.creds)
    return None


def _read_inherited(authfile: Path | None) -> bytes | None:
    """The content of an ``--authfile`` that the parent passed as an open descriptor; None if it is another file.

    It is read at once: it may be a pipe, which has its content only once, and opening it by its path may be forbidden
    to the user of this process.
    """
    prefix = next((one for one in _INHERITED if str(authfile).startswith(one)), None)
    if authfile is None or prefix is None:
        return None
    try:
        descriptor = int(str(authfile).removeprefix(prefix))
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - its one parameter
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            # From the beginning: the parent has the same file position, and may have moved it.
            content = os.pread(descriptor, _MAX_AUTH_FILE + 1, 0)
        else:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                content = file.read(_MAX_AUTH_FILE + 1)
    except (OSError, ValueError) as error:
        reason = f"it cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigurationError(f"--authfile {authfile}", reason, remedy="pass an open file of that number") from error
    if len(content) > _MAX_AUTH_FILE:
        raise ConfigurationError(f"--authfile {authfile}", f"it is larger than {_MAX_AUTH_FILE} bytes")
    return content
