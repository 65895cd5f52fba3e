"""Image in, result out, without ROS: a student, the stages around it, and how fast they are."""
