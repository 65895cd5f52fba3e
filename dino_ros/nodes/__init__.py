"""The ROS nodes and everything that depends on ROS: parameters, messages, topics, diagnostics, transport."""

import os

# Before NumPy is imported, which reads it then. Its products are small here, and the second thread of OpenBLAS waits in
# a loop for the next one: on two cores that took the engine half of its speed.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
