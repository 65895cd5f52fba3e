"""What may be learnt on the robot: the names that nodes use, without what learns it."""

HEAD, STUDENT = "head", "student"
