"""storage.conf(5): which file counts for whom, and what is meant where it is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_image_proxy.config.storage_conf import StoreLocation, find_driver, load_storage_conf
from container_image_proxy.errors import ConfigurationError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(root: Path, uid: int = 0, **environ: str) -> StoreLocation:
    return load_storage_conf(environ=environ, home=root / "home", uid=uid, root=root)


def test_without_a_file_root_has_the_system_s_store(tmp_path: Path) -> None:
    assert load(tmp_path) == StoreLocation(
        "overlay", Path("/var/lib/containers/storage"), Path("/run/containers/storage")
    )


def test_the_system_s_file(tmp_path: Path) -> None:
    write(tmp_path / "usr/share/containers/storage.conf", '[storage]\ndriver = "vfs"\n')
    assert load(tmp_path).driver == "vfs"
    text = (
        '[storage]\ndriver = "overlay2"\ngraphroot = "/srv/graph/../graph"\nrunroot = "/run/x"\nimagestore = "/srv/i"\n'
    )
    more = (
        'transient_store = true\nnew = 1\n[storage.options]\nadditionalimagestores = ["/mnt/a", "/mnt/b"]\nsize = ""\n'
    )
    write(tmp_path / "etc/containers/storage.conf", text + more)
    assert load(tmp_path) == StoreLocation(
        driver="overlay",
        graph_root=Path("/srv/graph"),
        run_root=Path("/run/x"),
        image_store=Path("/srv/i"),
        additional=(Path("/mnt/a"), Path("/mnt/b")),
        is_transient=True,
    )


def test_a_user_has_a_store_of_his_own(tmp_path: Path) -> None:
    text = '[storage]\ndriver = "vfs"\ngraphroot = "/var/lib/elsewhere"\n'
    write(tmp_path / "etc/containers/storage.conf", text)
    own = tmp_path / "home/.local/share/containers/storage"
    assert load(tmp_path, 1000) == StoreLocation("vfs", own, Path("/run/user/1000/containers"))
    environ = {"XDG_DATA_HOME": "/data", "XDG_RUNTIME_DIR": "/run/me"}
    assert load(tmp_path, 1000, **environ) == StoreLocation(
        "vfs", Path("/data/containers/storage"), Path("/run/me/containers")
    )


def test_of_the_system_s_file_a_user_takes_what_is_meant_for_users(tmp_path: Path) -> None:
    text = '[storage]\ndriver = "zfs"\nrootless_storage_path = "/srv/$USER/${UID}/x"\n'
    write(tmp_path / "etc/containers/storage.conf", text)
    assert load(tmp_path, 1000, USER="me") == StoreLocation(
        "overlay", Path("/srv/me/1000/x"), Path("/run/user/1000/containers")
    )


def test_a_user_s_own_file(tmp_path: Path) -> None:
    write(tmp_path / "home/.config/containers/storage.conf", '[storage]\ngraphroot = "$HOME/images"\n')
    assert load(tmp_path, 1000, HOME="/h").graph_root == Path("/h/images")
    write(tmp_path / "xdg/containers/storage.conf", '[storage]\ngraphroot = "/xdg"\n')
    assert load(tmp_path, 1000, XDG_CONFIG_HOME=str(tmp_path / "xdg")).graph_root == Path("/xdg")
    assert load(tmp_path, 0, HOME="/h").graph_root == Path("/var/lib/containers/storage")


def test_the_environment_names_a_file_which_must_exist(tmp_path: Path) -> None:
    file = write(tmp_path / "named.conf", '[storage]\ngraphroot = "/named"\n')
    assert load(tmp_path, 1000, CONTAINERS_STORAGE_CONF=str(file)).graph_root == Path("/named")
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path, CONTAINERS_STORAGE_CONF=str(tmp_path / "gone"))


def test_the_environment_s_driver_and_options_count(tmp_path: Path) -> None:
    write(tmp_path / "etc/containers/storage.conf", '[storage.options]\nadditionalimagestores = ["/mnt/a"]\n')
    location = load(tmp_path, STORAGE_DRIVER="vfs", STORAGE_OPTS="vfs.imagestore=/x,overlay.mount_program=/bin/f")
    assert (location.driver, location.additional) == ("vfs", (Path("/x"),))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[storage", "storage.conf: "),
        ("[storage]\ndriver = 1\n", "storage.driver: must be a string, not an integer"),
        ('[storage]\ngraphroot = "/a\\u0000b"\n', "a path has a null character"),
        ("storage = 1\n", "storage: must be a table, not an integer"),
        ('[storage.options]\nadditionalimagestores = "/x"\n', "must be an array, not a string"),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    write(tmp_path / "etc/containers/storage.conf", text)
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path)
    assert complaint in str(caught.value)


def test_a_driver_that_is_not_named_is_the_one_that_was_used(tmp_path: Path) -> None:
    assert find_driver("", tmp_path) == "overlay"
    (tmp_path / "vfs-images").mkdir()
    assert find_driver("", tmp_path) == "vfs"
    (tmp_path / "overlay-images").mkdir()
    assert find_driver("", tmp_path) == "overlay"
    assert find_driver("", tmp_path, ("vfs", "overlay")) == "vfs"
    assert find_driver("overlay2", tmp_path) == "overlay"
