"""Driving cameras: networks that find objects in images, what attackers want of them, and how that is measured.

Images are `(B, 3, H, W)` in [0, 1]. Boxes are `x1, y1, x2, y2`, as shares of the image's width and height: they stay
what they are when an image is resized, and so does every overlap of two.
"""
