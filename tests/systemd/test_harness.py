from __future__ import annotations

from pathlib import Path

from tests.support.machine import Machine, booted


def test_systemd_is_pid_1(machine: Machine) -> None:
    assert machine.run("cat", "/proc/1/comm").stdout == "systemd\n"
    assert machine.systemctl("is-system-running") == "running"


def test_the_host_does_not_see_what_the_machine_writes(machine: Machine) -> None:
    machine.write("/etc/only-inside", "x")
    assert machine.run("cat", "/etc/only-inside").stdout == "x"
    assert not Path("/etc/only-inside").exists()


def test_the_host_keeps_its_devices(machine: Machine) -> None:
    assert machine.run("stat", "--format=%a", "/dev/null").stdout == "666\n"
    assert Path("/dev/null").stat().st_mode & 0o777 == 0o666


def test_commands_run_as_the_user_named(machine: Machine) -> None:
    machine.add_user("alice", "readers")
    assert machine.run("id", "-nu", user="alice").stdout == "alice\n"
    assert "readers" in machine.run("id", "-nG", user="alice").stdout.split()


def test_nothing_is_left_of_a_machine(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    with booted() as machine:
        assert machine.root.joinpath("usr").is_dir()
    assert Path("/proc/self/mounts").read_text() == mounts
