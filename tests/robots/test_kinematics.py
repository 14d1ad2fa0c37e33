import numpy as np
import pytest

from dvgwm.robots.a1_model import KINEMATICS, LIMITS, ORIGINS, TOOL_LENGTH_M
from dvgwm.robots.chain import chain, tool
from dvgwm.robots.kinematics import jacobian, rotation_matrix, rotation_vector, serial_kinematics

FLANGE = serial_kinematics(ORIGINS, np.eye(4), LIMITS.lower[:6], LIMITS.upper[:6])
LOWER, UPPER = np.array(LIMITS.lower[:6]), np.array(LIMITS.upper[:6])


def test_flange_at_zero_matches_the_vendors_pose():
    pose = FLANGE.forward(np.zeros(6))
    assert pose[:3] == pytest.approx((0.0808, 0.0, 0.2405), abs=1e-4)
    # Quaternion xyzw (.5, .5, .5, .5): a turn by 120 degrees about (1, 1, 1).
    assert pose[3:] == pytest.approx(np.full(3, 2 * np.pi / 3 / np.sqrt(3)), abs=1e-5)


def test_flange_elsewhere_matches_the_recorded_position():
    joints = np.array([0.0, 0.6, -1.0, 0.0, 0.3, 0.0])
    assert FLANGE.forward(joints)[:3] == pytest.approx((0.0854, 0.0465, 0.5938), abs=1e-4)


def test_tool_lies_along_the_flange_and_ignores_the_gripper():
    joints = np.array([0.2, 1.4, -1.2, 1.5, -1.0, 0.3, 0.7])
    flange, tool = FLANGE.forward(joints), KINEMATICS.forward(joints)
    approach = rotation_matrix(flange[3:])[:, 2]
    assert tool[:3] - flange[:3] == pytest.approx(TOOL_LENGTH_M * approach, abs=1e-12)
    assert np.array_equal(tool, KINEMATICS.forward(joints[:6]))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.3, 3.0, np.pi - 1e-4, np.pi - 1e-7])
def test_rotation_vectors_survive_the_way_there_and_back(angle):
    axis = np.array([1.0, -2.0, 0.5]) / np.linalg.norm([1.0, -2.0, 0.5])
    assert rotation_vector(rotation_matrix(axis * angle)) == pytest.approx(axis * angle, abs=1e-7)


def test_half_turn_keeps_its_axis():
    axis = np.array([0.0, 0.6, 0.8])
    vector = rotation_vector(rotation_matrix(axis * np.pi))
    assert abs(vector @ axis) == pytest.approx(np.pi, abs=1e-7)


def test_inverse_finds_fifty_of_fifty_poses_from_near_seeds():
    random = np.random.default_rng(0)
    for _ in range(50):
        joints = random.uniform(LOWER + 0.2, UPPER - 0.2)
        found, reached = KINEMATICS.inverse(KINEMATICS.forward(joints), joints + random.uniform(-0.15, 0.15, 6))
        assert reached
        assert (found >= LOWER).all()
        assert (found <= UPPER).all()
        assert KINEMATICS.forward(found)[:3] == pytest.approx(KINEMATICS.forward(joints)[:3], abs=1e-3)


def test_inverse_stays_on_the_seeds_branch_over_the_whole_workspace():
    near, _ = KINEMATICS.inverse(np.array([0.29, 0.0, 0.13, 0, 0, 0]), np.array([0.0, 1.3, -0.9, 1.57, -1.2, 0.0]))
    for x in np.arange(0.20, 0.49, 0.07):
        for y in np.arange(-0.16, 0.17, 0.08):
            for turn in (-0.75, 0.0, 0.75):
                joints, reached = KINEMATICS.inverse(np.array([x, y, 0.02, 0.0, 0.0, turn]), near)
                assert reached
                assert np.abs(joints - near)[:5].max() < 0.8


def test_inverse_out_of_reach_says_so_and_keeps_inside_the_limits():
    joints, reached = KINEMATICS.inverse(np.array([1.5, 0.0, 0.2, 0.0, 0.0, 0.0]), np.zeros(6))
    assert not reached
    assert (joints >= LOWER).all()
    assert (joints <= UPPER).all()


def test_a_pose_that_needs_a_forbidden_joint_is_not_reached():
    beyond = np.array([0.0, 1.4, -1.2, 1.5, -1.0, UPPER[5] + 0.3])
    joints, reached = KINEMATICS.inverse(KINEMATICS.forward(beyond), np.clip(beyond, LOWER, UPPER))
    assert not reached
    assert joints[5] <= UPPER[5]


def test_the_standard_library_gives_the_same_tool():
    """The gate's own kinematics: the tool's position, and how it moves with every joint."""
    made = chain(ORIGINS, (0.0, 0.0, TOOL_LENGTH_M))
    for seed in range(50):
        joints = np.random.default_rng(seed).uniform(LIMITS.lower, LIMITS.upper)
        frames, tool_frame = KINEMATICS._frames(joints)
        position, parts = tool(made, joints)
        assert position == pytest.approx(tool_frame[:3, 3], abs=1e-12)
        assert np.transpose(parts) == pytest.approx(jacobian(frames, tool_frame)[:3], abs=1e-12)
        bent = joints + np.eye(7)[seed % 6] * 0.1
        assert tool(made, bent)[0] != pytest.approx(position, abs=1e-6) or seed % 6 == 5, (
            "only the last joint turns in place"
        )
