"""Objects over their image: the tint is where the mask is, colours tell classes apart, nothing is drawn outside."""

import numpy as np

from distseg.tasks.instance_drawing import class_colour, draw_instances

CLASSES = ("nut", "bolt")


def block(left: int, top: int, side: int) -> np.ndarray:
    mask = np.zeros((120, 160), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_the_tint_is_a_part_of_the_classs_colour() -> None:
    image = np.full((120, 160, 3), 200, np.uint8)
    picture = draw_instances(image, [block(40, 60, 40)], [1], CLASSES, opacity=0.25)
    wanted = [round(0.75 * 200 + 0.25 * part) for part in class_colour(1)]
    assert picture[80, 60].tolist() == wanted
    assert picture[110, 150].tolist() == [200, 200, 200]
    assert (image == 200).all()  # the caller's own stays as it was


def test_the_first_object_is_drawn_on_top() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    picture = draw_instances(image, [block(40, 60, 30), block(40, 60, 30)], [0, 1], CLASSES, opacity=1.0)
    assert picture[75, 55].tolist() == list(class_colour(0))


def test_colours_differ_and_labels_stay_inside() -> None:
    colours = np.array([class_colour(label) for label in range(8)], int)
    distances = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(8, dtype=int)
    assert distances.min() > 60
    image = np.zeros((120, 160, 3), np.uint8)
    corners = [block(0, 0, 9), block(151, 0, 9), block(0, 111, 9), block(151, 111, 9), np.zeros((120, 160), np.uint8)]
    picture = draw_instances(image, corners, [0, 1, 0, 1, 0], CLASSES, [0.5, 0.25, 1.0, 0.125, 0.75])
    assert picture.shape == image.shape
    assert (picture > 0).any()
