"""Robots: what drives an arm, and the gate that has the last word. `dvgwm.robots.arm.open_arm` opens one."""
