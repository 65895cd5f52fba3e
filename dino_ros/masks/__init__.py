"""Object masks from what a student sees: one file for each method, and one for each step after it.

A method makes a soft mask on the patch grid, [h, w] float32 of 0 to 1 with the objects above one half. `steady` carries
masks along from frame to frame, `refine` takes them to the camera's resolution, `objects` tells objects apart; `maker`
puts the steps together.
"""
