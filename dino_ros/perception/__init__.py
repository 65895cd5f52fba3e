"""From an image to its results without ROS: a student, the stages around it, and how fast they are."""
