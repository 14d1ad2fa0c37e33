"""One arm, one runtime: whatever it is called, whoever asks, wherever he keeps his files."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from dvgwm.robots import franka, host, lock, ros, ur7e
from dvgwm.robots.a1_model import SAFETY
from dvgwm.robots.galaxea_a1 import ROBOT
from dvgwm.robots.spec import DriveOptions
from dvgwm.runtime.errors import RobotCommunicationError

HOLD = (
    "import sys, time\nfrom dvgwm.robots.lock import lock\nlock(sys.argv[1])\nprint('held', flush=True)\ntime.sleep(60)"
)
TRY = "import os, sys\nfrom dvgwm.robots.lock import lock\nos.setuid(int(sys.argv[2]))\nlock(sys.argv[1])"


@pytest.fixture
def name(request):
    """A name that no other test locks."""
    return f"{os.getpid()} {request.node.nodeid}"


@pytest.fixture
def holder(name):
    """A process that has the lock ``name``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, name], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def refused(name):
    with pytest.raises(RobotCommunicationError) as caught:
        lock.lock(name)
    assert (caught.value.exit_code, caught.value.log_code) == (40, "ROBOT_LOCKED")
    return str(caught.value)


def test_another_process_is_refused_and_told_who_has_it(holder, name):
    assert f"process {holder.pid} of user {os.getuid()}" in refused(name)
    os.close(lock.lock(f"{name} another"))


@pytest.mark.parametrize("place", ["TMPDIR", "HOME", "XDG_RUNTIME_DIR"])
def test_no_place_of_ones_own_gives_another_lock(holder, name, tmp_path, monkeypatch, place):
    monkeypatch.setenv(place, str(tmp_path))
    words = [sys.executable, "-c", TRY, name, str(os.getuid())]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=30)
    assert "ROBOT_LOCKED" in done.stderr or "another runtime has" in done.stderr
    assert not list(tmp_path.iterdir()), "there is nothing that anybody could make first, or clean away"


def test_another_user_is_refused(holder, name):
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    done = subprocess.run([sys.executable, "-c", TRY, name, "65534"], capture_output=True, text=True, timeout=30)
    assert f"another runtime has the arm at {name} (process {holder.pid} of user 0)" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_it_ends_with_its_process_however_that_ends(holder, name, number):
    refused(name)
    holder.send_signal(signal.SIGSTOP)
    refused(name)
    holder.send_signal(number)
    holder.send_signal(signal.SIGCONT)
    holder.wait(10)
    os.close(lock.lock(name))


@pytest.fixture
def everywhere():
    """The port of a server that listens on all addresses of this machine."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "spelling", ["localhost", "127.0.0.1", "127.0.0.2", "127.1.2.3", "tcp://127.0.0.1", socket.gethostname()]
)
def test_a_server_of_this_machine_has_one_name_however_it_is_spelt(everywhere, spelling):
    try:
        socket.gethostbyname(spelling.rpartition("/")[2])
    except OSError:
        pytest.skip(f"{spelling} has no address here")
    assert host.place(f"{spelling}:{everywhere}") == f"endpoint *:{everywhere}"


def test_servers_at_addresses_of_their_own_are_told_apart():
    with socket.create_server(("127.0.0.7", 0)) as one:
        port = one.getsockname()[1]
        with socket.create_server(("127.0.0.8", port)):
            assert host.place(f"127.0.0.7:{port}") != host.place(f"127.0.0.8:{port}")


def test_a_device_is_itself_by_whatever_link(tmp_path):
    (tmp_path / "by-id").symlink_to("/dev/null")
    assert host.place(str(tmp_path / "by-id")) == host.place("/dev/null") == "device 1:3"
    assert host.place("no such arm") == "address no such arm"


def test_a_robot_whose_driver_says_nothing_is_what_is_at_its_address(everywhere):
    class Other:
        id = "spelt in some way"

    names = {lock.identities(Other(), DriveOptions(f"{host}:{everywhere}")) for host in ("localhost", "127.0.0.5")}
    assert names == {(f"endpoint *:{everywhere}",)}


@pytest.mark.parametrize("robot", [ur7e.ROBOT, franka.ROBOT], ids=lambda robot: robot.name)
def test_a_controller_is_its_address_however_it_is_spelt(robot):
    def names(address):
        return robot.drive(DriveOptions(address)).identities()

    assert names("localhost") == names("127.0.0.1")
    assert names("127.0.0.1") != names("127.0.0.2"), "nobody listens at both"
    others = (each for each in (ur7e.ROBOT, franka.ROBOT) if each is not robot)
    assert names("192.0.2.7") not in [other.drive(DriveOptions("192.0.2.7")).identities() for other in others]


@pytest.fixture(scope="module")
def wide_roscore(ros_master):
    """The port of a ROS master that answers at all addresses of this machine: it does where its own is no loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        yield from (address.rpartition(":")[2] for address in ros_master(probe.getsockname()[0]))


def test_an_a1_is_its_master_and_the_topics_that_command_it(wide_roscore):
    port = wide_roscore
    roscore = f"localhost:{port}"

    def names(address, **settings):
        return set(ROBOT.drive(DriveOptions(address, settings)).identities())

    one = names(f"127.0.0.1:{port}")
    assert one == names(f"127.0.0.2:{port}") == names(f"ros://localhost:{port}")
    assert one == names(roscore, joint_targets="arm_joint_target_position"), "however the topic is spelt"
    assert one & names(roscore, gripper_targets="/other"), "one of them is enough"
    assert not one & names(roscore, joint_targets="/left/joints", gripper_targets="/left/gripper")
    assert ros.identity("127.0.0.1", int(port)) == ros.identity("127.0.0.3", int(port))


def test_a_second_runtime_of_one_arm_is_refused_before_it_reads_anything(a1_node, wide_roscore, motion_process):
    """By another address of the same master."""
    a1_node(master=f"127.0.0.1:{wide_roscore}")
    first = motion_process(SAFETY, "galaxea_a1", f"127.0.0.1:{wide_roscore}")
    try:
        second = motion_process(SAFETY, "galaxea_a1", f"127.0.0.2:{wide_roscore}", wait=False)
        assert second.ended(20) == 40
        assert second.child.said().startswith("E40 ROBOT_LOCKED another runtime has the arm at ROS master")
        assert f"process {first.process.pid}" in second.child.said()
        assert not second.states
        second.close()
        first.pass_time(0.2)
        assert first.process.poll() is None
    finally:
        first.close()


@pytest.mark.sim
def test_two_simulated_arms_are_two(motion_process):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    one = motion_process()
    try:
        motion_process().close()
    finally:
        one.close()
