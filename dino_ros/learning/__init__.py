"""How a robot's student is adapted to what its camera sees, without ROS and without torch."""
