"""Settings turned into policy, registries, credentials and the proxy over them, whole or not at all.

Used at the start, by ``--check``, and by each reload, which replaces the old configuration only by one that could be
read whole. Must not contact anybody.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from container_image_proxy.concurrency.cancellation import Cancellation
from container_image_proxy.concurrency.context import Context
from container_image_proxy.concurrency.lazy import Lazy
from container_image_proxy.config.certificates import load_certificates
from container_image_proxy.config.instances import COMMAND_LINE, verify_paths
from container_image_proxy.config.limits import Limits
from container_image_proxy.config.lookaside import load_lookaside
from container_image_proxy.config.registries_conf import load_registries
from container_image_proxy.config.short_names import resolve_short_name
from container_image_proxy.config.storage_conf import load_storage_conf
from container_image_proxy.core.opening import AnyImages
from container_image_proxy.core.proxy import Proxy, ServedImage
from container_image_proxy.core.serving import Serving
from container_image_proxy.core.snapshot_store import SnapshotStore
from container_image_proxy.errors import ConfigurationError, InvalidReferenceError, SourceError, remedied_by
from container_image_proxy.policy.gpg import Gpg
from container_image_proxy.policy.model import insecure_policy, load_policy
from container_image_proxy.policy.openpgp import Keyrings
from container_image_proxy.registry.auth.keychain import load_keychain
from container_image_proxy.registry.http.proxies import parse_proxies
from container_image_proxy.transports.archives.spool import SpoolDirectory
from container_image_proxy.transports.source import Access
from container_image_proxy.transports.table import names_transport, parse_image_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from container_image_proxy.config.engine import EngineAddress
    from container_image_proxy.config.instances import ImageSettings, InstanceSettings, TrustSettings
    from container_image_proxy.config.registries import Registries
    from container_image_proxy.config.storage_conf import StoreLocation
    from container_image_proxy.core.distribution import Distribution
    from container_image_proxy.image.platform import Platform
    from container_image_proxy.policy.model import Policy
    from container_image_proxy.registry.auth.keychain import Credentials, Keychain
    from container_image_proxy.registry.client import RegistryClient
    from container_image_proxy.transports.source import SourceReference


class Surroundings(Struct, frozen=True):
    """What the process was started with, as far as the configuration depends on it. Only ``__main__`` reads the real
    environment.

    ``credentials`` are those of ``--creds``, ``no_credentials`` is ``--no-creds``. ``auth_content`` is the content of
    the file of ``--authfile``, if that can be read only once. ``open_at`` is set where any local user can connect, and
    nobody allowed that for images that take a login: it says where.
    """

    environ: Mapping[str, str]
    home: Path
    uid: int
    credentials: Credentials | None = None
    no_credentials: bool = False
    auth_content: bytes | None = None
    open_at: str = ""


def assemble(settings: InstanceSettings, store: SnapshotStore, surroundings: Surroundings) -> Serving:
    """Read every file that the settings need. Raises :class:`ConfigurationError` if one of them cannot be used."""
    return _assemble(settings, store, surroundings, {})[0]


def assemble_any(settings: InstanceSettings, platform: Platform, surroundings: Surroundings) -> AnyImages:
    """As :func:`assemble`, for the images that a client will name. The settings have none."""
    given: dict[str, Credentials] = {}  # the keychain sees what is added later
    serving, make_proxy = _assemble(settings, SnapshotStore(None), surroundings, given)

    def grant(registry: str) -> None:
        if surroundings.credentials is not None:
            given[registry] = surroundings.credentials

    parse = partial(parse_image_reference, default_store=_find_store(surroundings))
    return AnyImages(serving, make_proxy, platform, parse, grant)


def _find_store(surroundings: Surroundings) -> Callable[[], StoreLocation]:
    return partial(load_storage_conf, environ=surroundings.environ, home=surroundings.home, uid=surroundings.uid)


def _assemble(
    settings: InstanceSettings, store: SnapshotStore, surroundings: Surroundings, given: dict[str, Credentials]
) -> tuple[Serving, Callable[..., Proxy]]:
    """The settings' configuration, and a function that makes a proxy of other images under it.

    ``given`` are the credentials of the command line by registry, for which the settings' registries are added.
    """
    verify_paths(settings)
    with remedied_by("see containers-registries.conf(5)"):
        registries = load_registries(
            path=settings.registry.registries_conf,
            directory=settings.registry.registries_conf_dir,
            environ=surroundings.environ,
            home=surroundings.home,
            uid=surroundings.uid,
            learned_aliases=not all(names_transport(image.reference) for image in settings.images.values()),
        )
    default_store = _find_store(surroundings)
    with remedied_by("see container-image-proxy-transports(5)"):
        images = {name: _serve(image, registries, default_store) for name, image in settings.images.items()}
    policy = _load_policy(settings.trust, surroundings)
    if surroundings.credentials is not None:
        domains = {image.reference.registry for image in images.values() if image.reference.registry is not None}
        given |= dict.fromkeys(domains, surroundings.credentials)
    with remedied_by("see containers-auth.json(5)"):
        keychain = load_keychain(
            authfile=settings.registry.authfile,
            content=surroundings.auth_content,
            environ=surroundings.environ,
            home=surroundings.home,
            uid=surroundings.uid,
            creds=given,
            no_creds=surroundings.no_credentials,
            credential_helpers=registries.credential_helpers,
            instance=None if settings.file == COMMAND_LINE else settings.name,
        )
    if surroundings.open_at:
        _verify_without_login(images.values(), registries, keychain, surroundings.open_at)
    registry = _prepare_registry(settings, registries, surroundings, keychain)
    with remedied_by("see containers-registries.d(5)"):
        lookaside = load_lookaside(directory=settings.trust.registries_d, home=surroundings.home, uid=surroundings.uid)
    cache = settings.sources.cache_dir or _cache_directory(surroundings.environ)
    spools = SpoolDirectory(cache, settings.sources.spool_limit)
    engine = Lazy(lambda: _load_engine_address(settings, surroundings))
    access = Access(registry, lookaside, spools, settings.registry.shared_blob_dir, engine=engine)
    make_proxy = partial(
        Proxy,
        policy=policy,
        open_source=lambda reference, earlier, state: reference.open_source(access, earlier, state),
        require_instance_signature=settings.trust.require_instance_signature,
        accept_unnamed_bundles=settings.trust.accept_unnamed_bundles,
        verification_timeout=settings.trust.verification_timeout,
    )
    proxy = make_proxy(images=images, store=store)
    return Serving(settings, images, policy, proxy, access, Lazy(lambda: _make_distribution(proxy))), make_proxy


def _make_distribution(proxy: Proxy) -> Distribution:
    from container_image_proxy.core.distribution import Distribution  # noqa: PLC0415 - few pull as from a registry

    return Distribution(proxy)


def _serve(image: ImageSettings, registries: Registries, default_store: Callable[[], StoreLocation]) -> ServedImage:
    """The image that its settings mean. Raises :class:`ConfigurationError`, which names file and key."""
    try:
        reference = _parse_reference(image.reference, registries, default_store)
        # On the command line somebody waits for the answer. An image of an instance may come to be there later.
        if image.file == COMMAND_LINE:
            reference.verify_place()
    except (InvalidReferenceError, SourceError) as error:
        raise ConfigurationError(image.file, str(error), key=image.key) from error
    if reference.depends_on_directory and image.file != COMMAND_LINE:
        raise ConfigurationError(image.file, f"{reference}: the path must be absolute", key=image.key)
    return ServedImage(image.name, reference, image.platform, image.fresh_for)


def _parse_reference(text: str, registries: Registries, default_store: Callable[[], StoreLocation]) -> SourceReference:
    """Read ``transport:reference``, or a bare name as podman takes it, which registries.conf must make unambiguous."""
    if names_transport(text):
        return parse_image_reference(text, default_store)
    meant, *others = resolve_short_name(registries, text)
    if others:
        raise InvalidReferenceError(
            f"{text!r} is ambiguous: write docker:// and one of {', '.join(map(str, (meant, *others)))}"
        )
    return parse_image_reference(f"docker://{meant}")


def _verify_without_login(
    images: Iterable[ServedImage], registries: Registries, keychain: Keychain, place: str
) -> None:
    """Raise :class:`ConfigurationError` for an image that would be fetched with credentials.

    Any local user would get images that only the owner of the credentials may have. Whether the credentials are needed
    is not known before the registry is asked.
    """
    for image in images:
        if image.reference.registry is None or image.reference.docker_reference is None:
            continue
        for source in registries.pull_sources(image.reference.docker_reference):
            if credentials := keychain.credentials_for(Context(Cancellation()), source.reference):
                raise ConfigurationError(
                    COMMAND_LINE,
                    f"any local user can connect to {place}, and would have an image that is fetched from "
                    f"{source.reference.domain} with the credentials of {credentials.origin}",
                    key=place.partition(" ")[0],
                    remedy="fetch it without by --no-creds, let users be asked for by --socket, "
                    "or let any user have it by --allow-any-user",
                )


def find_gpg(environ: Mapping[str, str]) -> Gpg:
    """gpg, with its homes in the runtime directory of the unit or the user: nobody else writes there, or cleans up."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    directories = [runtime, environ.get("XDG_RUNTIME_DIR", ""), environ.get("TMPDIR", "")]
    return Gpg(tuple(Path(directory) for directory in directories if directory.startswith("/")))


def _cache_directory(environ: Mapping[str, str]) -> Path:
    """The directory for large files that systemd made for the unit, or else the host's, as for podman and skopeo."""
    directory = environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    return Path(directory if directory.startswith("/") else "/var/tmp")  # noqa: S108 - files there have no name


def _load_engine_address(settings: InstanceSettings, surroundings: Surroundings) -> EngineAddress:
    """Where the Docker daemon is."""
    from container_image_proxy.config.engine import load_engine_address  # noqa: PLC0415 - most hosts have none

    sources = settings.sources
    address = load_engine_address(sources.daemon_host, sources.daemon_cert_dir, surroundings.environ, surroundings.home)
    return replace(address, verify=settings.registry.tls_verify is not False)


def _load_policy(trust: TrustSettings, surroundings: Surroundings) -> Policy:
    if trust.insecure_policy:
        return insecure_policy()
    policy = load_policy(str(trust.policy) if trust.policy else None, home=str(surroundings.home))
    return replace(policy, keyrings=Keyrings(find_gpg(surroundings.environ)))


def _prepare_registry(
    instance: InstanceSettings, registries: Registries, surroundings: Surroundings, keychain: Keychain
) -> Lazy[RegistryClient]:
    """The client for all registries. Its configuration is read now, the HTTP library is loaded when it is needed."""
    settings = instance.registry
    with remedied_by("see containers-certs.d(5)"):
        certificates = load_certificates(cert_dir=settings.cert_dir, home=surroundings.home)
    with remedied_by("see container-image-proxy(1), ENVIRONMENT"):
        parse_proxies(surroundings.environ)  # an unusable proxy is reported now, and not with the first request

    def make() -> RegistryClient:
        from container_image_proxy.registry.client import RegistryClient  # noqa: PLC0415 - 60 ms that layouts never need

        return RegistryClient(
            registries=registries,
            keychain=keychain,
            certificates=certificates,
            limits=Limits(),
            tls_verify=settings.tls_verify,
            environ=surroundings.environ,
            token_realms=settings.token_realms,
            user_agent_prefix=settings.user_agent_prefix,
        )

    return Lazy(make)
