"""Another node on a topic of the arm's: it registers as a publisher, and may publish, as a bag or a second runtime does."""

import json
import sys
import time

from dvgwm.robots import galaxea_a1_messages, galaxea_a1_ros, ros

HOME = (0.0, 1.58, -1.14, 1.57, -1.13, 0.0)


def main(master, topic, rate_hz, old_s):
    rospy = ros.open_node(*ros.master(master))
    settings = galaxea_a1_ros.A1Settings()
    state = ros.library("sensor_msgs.msg").JointState
    status = galaxea_a1_messages.status_messages("signal_arm/status_stamped")
    kinds = {
        settings.status: status["signal_arm/status_stamped"],
        settings.gripper_targets: galaxea_a1_messages.gripper_message(),
    }
    sys.stdout.write(json.dumps({"node": rospy.get_name()}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()  # it begins when it is told to
    told = rospy.Publisher(topic, kinds.get(topic, state), queue_size=1, tcp_nodelay=True)
    while True:
        time.sleep(1 / rate_hz if rate_hz else 3600)
        message = kinds.get(topic, state)()
        message.header.stamp = rospy.Time.from_sec(time.time() - old_s)
        if topic == settings.joint_states:
            message.name, message.position, message.velocity = list(galaxea_a1_messages.JOINTS), list(HOME), [0.0] * 6
        if topic == settings.gripper_state:
            message.name, message.position = ["gripper"], [30.0]
        told.publish(message)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
