"""Of what use frozen features are to a robot arm: policies that are cloned from demonstrations, and tried out."""
