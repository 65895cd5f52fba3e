"""The ROS nodes and everything that depends on ROS: parameters, messages, topics, diagnostics, transport."""
