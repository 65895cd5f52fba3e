"""From masks and a registered depth image to objects in meters, without ROS: points, oriented boxes.

`images` reads depth and the camera's matrix, `surface` takes points from them, `support` finds what an object stands
on, `boxes` puts boxes around objects, `objects` does it all, and `pairing` finds the depth image of a mask.
"""
