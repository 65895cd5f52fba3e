"""Self-supervised vision for robots: DINO features and attention masks on ROS 2, without torch."""
