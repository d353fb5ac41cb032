"""``--check`` as root: what the instance's own user, in its sandbox and with its drop-ins, could not read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.support.instance import Instance
from tests.support.machine import Machine

MakeInstance = Callable[[str], Instance]


def check(instance: Instance, *arguments: str) -> subprocess.CompletedProcess[str]:
    named = ["--instance", instance.name] if "--instance" not in arguments else []
    return instance.machine.run("container-image-proxy", "--check", *named, *arguments, check=False)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The complaints; each is one line."""
    assert done.returncode == 78, done.stdout + done.stderr
    return [line.removeprefix("error ") for line in done.stderr.splitlines() if line.startswith("error ")]


def test_what_is_right_is_told_as_the_instance_sees_it(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("right")
    instance.add_image()
    instance.configure()
    machine.write("/root/.config/containers/policy.json", '{"default": [{"type": "reject"}]}')  # root's own, not ours
    instance.start()
    assert instance.get("/manifest").status == 200
    done = check(instance)
    machine.run("rm", "-r", "/root/.config")
    assert (done.returncode, done.stderr) == (0, "")
    assert "trust      default: insecureAcceptAnything" in done.stdout
    uid = machine.run("stat", "--format=%u", f"/proc/{instance.show('MainPID')}").stdout.strip()
    (users,) = [line for line in done.stdout.splitlines() if "users" in line]
    assert users in (f"  users      root (0), cip-right ({uid})", f"  users      root (0), {uid}")
    assert instance.starts() == 1


def test_files_that_only_root_may_read_are_told(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("closed")
    instance.add_image()
    for name, text in {"authfile": "authfile", "policy": "policy", "registries-conf": "registries-conf"}.items():
        section = "trust" if name == "policy" else "registry"
        instance.configure(f'[{section}]\n{name} = "/etc/closed-{text}"\n')
        machine.write(f"/etc/closed-{text}", "{}", mode=0o600)
        (complaint,) = errors(check(instance))
        assert complaint.startswith(
            f"/etc/closed-{text}: cannot be read: Permission denied: /etc/closed-{text} (mode 0600"
        )
    instance.configure()
    machine.run("chmod", "0600", instance.file)
    assert f"{instance.file}: cannot be read: Permission denied" in errors(check(instance))[0]


def test_every_layout_that_the_instance_cannot_read_is_told(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("unseen")
    instance.add_image()
    places = {
        "below": ("/srv/unseen/below/layout", "/srv/unseen/below (mode 0700, of uid 0) is closed to uid"),
        "root": ("/root/unseen/layout", "ProtectHome= of the unit hides /root"),
        "home": ("/home/unseen/layout", "ProtectHome= of the unit hides /home"),
        "tmp": ("/tmp/unseen/layout", "PrivateTmp= of the unit hides the host's /tmp"),
        "missing": ("/srv/unseen/missing", "/srv/unseen/missing: No such file or directory"),
    }
    for name, (path, _) in places.items():
        if name != "missing":
            machine.run("sh", "-c", f"mkdir -p {path.rpartition('/')[0]} && cp -a /srv/unseen/image {path}")
    machine.run("chmod", "0700", "/srv/unseen/below")
    tables = [f'[images.{name}]\nreference = "oci:{path}:latest"\n' for name, (path, _) in places.items()]
    instance.configure("\n".join(['default = "image"', *tables]), "image")
    told = errors(check(instance))
    assert len(told) == len(places)
    for line, (name, (_, reason)) in zip(told, places.items(), strict=True):
        assert line.startswith(f"{instance.file}: images.{name}.reference: ")
        assert reason in line
    for name, (path, _) in places.items():
        if name == "missing":
            machine.run("cp", "-a", "/srv/unseen/image", path)
    machine.run("chmod", "0711", "/srv/unseen/below")
    binds = "".join(f"BindReadOnlyPaths=-{places[name][0]}\n" for name in ("root", "home", "tmp"))
    instance.drop_in(f"[Service]\nProtectHome=tmpfs\nTemporaryFileSystem=/root:ro\n{binds}")
    done = check(instance)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_certificate_that_the_instance_cannot_read_is_told(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("secret-ca")
    machine.write(instance.file, '[images.image]\nreference = "docker://registry.example/image"\n')
    file = "/etc/containers/certs.d/registry.example/ca.crt"
    machine.write(file, "", mode=0o600)
    (complaint,) = errors(check(instance))
    machine.run("rm", "-r", "/etc/containers/certs.d/registry.example")
    assert complaint.startswith(f"{file}: cannot be read: Permission denied: {file} (mode 0600, of uid 0) is closed to")
    assert check(instance).returncode == 0


def test_credentials_of_others_are_told_of_unless_the_store_has_some(
    machine: Machine, make_instance: MakeInstance
) -> None:
    instance = make_instance("others")
    instance.add_image()
    instance.configure()
    stored = "/etc/credstore/container-image-proxy.others.auth.json"
    machine.run("install", "-d", "-m", "0700", "/run/containers")
    done = check(instance)
    assert done.returncode == 0
    assert "warning /run/containers/" in done.stderr
    assert stored in done.stderr
    machine.write(stored, '{"auths": {}}', mode=0o600)
    done = check(instance)
    assert (done.returncode, done.stderr) == (0, "")
    machine.write(stored, "{", mode=0o600)
    (complaint,) = errors(check(instance))
    machine.run("rm", "-r", "/run/containers")
    assert "auth.json: the content is not valid JSON" in complaint


@pytest.mark.parametrize(
    ("drop_in", "reason"),
    [
        ("LoadCredential=auth.json:/etc/no-such-auth.json", "243/CREDENTIALS"),
        ("DynamicUser=no\nUser=nobody-of-that-name", "217/USER"),
        ("BindReadOnlyPaths=/srv/no-such-directory", "226/NAMESPACE"),
        ("PrivateUsers=yes", "leave PrivateUsers= out of the unit|217/USER"),  # the latter where / is a chroot(2)
    ],
    ids=["credential", "user", "bind", "private-users"],
)
def test_what_keeps_the_service_from_starting_keeps_the_check(
    machine: Machine, make_instance: MakeInstance, drop_in: str, reason: str, request: pytest.FixtureRequest
) -> None:
    instance = make_instance(f"bad-{request.node.callspec.id}")
    instance.add_image()
    machine.add_user("somebody")
    instance.configure('[access]\nusers = ["somebody"]\n')
    instance.drop_in(f"[Service]\n{drop_in}\n")
    (complaint,) = errors(check(instance))
    assert any(one in complaint for one in reason.split("|"))


def test_users_whom_the_socket_keeps_out_are_told(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("door")
    instance.add_image()
    instance.configure('[access]\nusers = ["root", "inside", "outside"]\n')
    machine.add_user("inside", "doorkeepers")
    machine.add_user("outside")
    directory = f"/etc/systemd/system/{instance.socket}.d"
    machine.write(f"{directory}/test.conf", "[Socket]\nSocketMode=0660\nSocketGroup=doorkeepers\n")
    machine.systemctl("daemon-reload")
    instance.start()
    ids = {name: machine.run("id", "-u", name).stdout.strip() for name in ("inside", "outside")}
    lines = check(instance).stdout.splitlines()
    assert f"  users      root (0), inside ({ids['inside']})" in lines
    (kept_out,) = [line for line in lines if line.startswith("  kept out")]
    assert kept_out.startswith(
        f"  kept out   outside ({ids['outside']}): the socket has mode 0660 and group doorkeepers"
    )
    assert instance.get("/manifest", user="inside").status == 200
    assert instance.get("/manifest", user="outside").exit == 7


def test_all_instances_are_checked_but_those_that_are_masked(machine: Machine, make_instance: MakeInstance) -> None:
    kept = machine.root / "etc/container-image-proxy"
    kept.rename(kept.with_name("container-image-proxy.kept"))
    try:
        for name in ("one", "two"):
            instance = make_instance(name)
            instance.add_image()
            instance.configure()
        machine.run("ln", "-s", "/dev/null", "/etc/container-image-proxy/masked.toml")
        done = machine.run("container-image-proxy", "--check", check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert [line for line in done.stdout.splitlines() if "oci:/srv/" in line] == [
            "  reference  oci:/srv/one/image:latest",
            "  reference  oci:/srv/two/image:latest",
        ]
        machine.run("rm", "-r", "/srv/one")
        done = machine.run("container-image-proxy", "--check", check=False)
        assert len(errors(done)) == 1
        assert "oci:/srv/two/image:latest" in done.stdout
    finally:
        machine.run("rm", "-r", "/etc/container-image-proxy")
        kept.with_name("container-image-proxy.kept").rename(kept)


def test_a_host_without_d_bus_is_enough(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("no-bus")
    instance.add_image()
    instance.configure()
    machine.run("chmod", "0700", "/srv/no-bus/image")
    machine.run("systemctl", "stop", "dbus.service", "dbus.socket", check=False)  # if there is one at all
    try:
        (complaint,) = errors(check(instance))
        listed = machine.run(
            "systemctl", "list-units", "--all", "container-image-proxy-check-*", "--plain", "--no-legend"
        )
    finally:
        machine.run("systemctl", "start", "dbus.socket", check=False)
    assert "/srv/no-bus/image (mode 0700, of uid 0) is closed to uid" in complaint
    assert listed.stdout == ""
    assert list((machine.root / "run").glob("container-image-proxy-*")) == []


def test_without_a_unit_the_rights_are_root_s_and_it_says_so(machine: Machine, make_instance: MakeInstance) -> None:
    instance = make_instance("unit-less")
    instance.add_image()
    instance.configure()
    machine.run("mv", "/etc/systemd/system/container-image-proxy@.service", "/srv/")
    try:
        done = check(instance)
    finally:
        machine.run("mv", "/srv/container-image-proxy@.service", "/etc/systemd/system/")
    assert done.returncode == 0
    assert (
        "warning instance unit-less is checked with the rights of root: systemd has no container-image-" in done.stderr
    )


def test_a_name_that_no_instance_can_have_is_told_and_leaves_nothing_behind(machine: Machine) -> None:
    done = machine.run("container-image-proxy", "--check", "--instance", "a.b", check=False)
    assert done.returncode == 78
    assert done.stderr.startswith("error instance 'a.b': not an instance name (1 to 27 letters")
    assert "container-image-proxy-check" not in machine.systemctl("--failed", "--no-legend", "--plain")


def test_who_is_not_root_is_told_that_the_instance_s_user_is_another(
    machine: Machine, make_instance: MakeInstance
) -> None:
    instance = make_instance("not-root")
    instance.add_image()
    instance.configure()
    machine.add_user("onlooker")
    done = machine.run("container-image-proxy", "--check", "--instance", instance.name, user="onlooker")
    uid = machine.run("id", "-u", "onlooker").stdout.strip()
    told = f"warning instance not-root is checked as uid {uid} (onlooker): only root can check it as its own user"
    assert told in done.stderr.splitlines()
