"""Object masks from a student's outputs: one file per method, and one per step that follows.

A method makes a soft mask on the patch grid, [h, w] float32 in 0 to 1 with objects above one half. `motion` carries
masks from frame to frame, `refine` takes them to the camera's resolution along the image's edges, `objects` tells
objects apart; `maker` puts the steps together. `parameters` has the settings of all of them.
"""
