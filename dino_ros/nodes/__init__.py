"""The ROS nodes, and all that knows ROS: parameters, messages, topics, diagnostics, transport."""
