"""CamVid's classes: the 32 that its authors drew, and the 11 into which SegNet's authors merged them.

Sources: CamVid's label_colors.txt (Brostow, Fauqueur, Cipolla 2009); the SegNet tutorial's data set.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Label(IntEnum):
    """The 32 classes in CamVid's order and spelling."""

    Animal = 0
    Archway = 1
    Bicyclist = 2
    Bridge = 3
    Building = 4
    Car = 5
    CartLuggagePram = 6
    Child = 7
    Column_Pole = 8
    Fence = 9
    LaneMkgsDriv = 10
    LaneMkgsNonDriv = 11
    Misc_Text = 12
    MotorcycleScooter = 13
    OtherMoving = 14
    ParkingBlock = 15
    Pedestrian = 16
    Road = 17
    RoadShoulder = 18
    Sidewalk = 19
    SignSymbol = 20
    Sky = 21
    SUVPickupTruck = 22
    TrafficCone = 23
    TrafficLight = 24
    Train = 25
    Tree = 26
    Truck_Bus = 27
    Tunnel = 28
    VegetationMisc = 29
    Void = 30
    Wall = 31


RGB: npt.NDArray[np.uint8] = np.array(
    [
        (64, 128, 64), (192, 0, 128), (0, 128, 192), (0, 128, 64), (128, 0, 0), (64, 0, 128), (64, 0, 192),
        (192, 128, 64), (192, 192, 128), (64, 64, 128), (128, 0, 192), (192, 0, 64), (128, 128, 64), (192, 0, 192),
        (128, 64, 64), (64, 192, 128), (64, 64, 0), (128, 64, 128), (128, 128, 192), (0, 0, 192), (192, 128, 128),
        (128, 128, 128), (64, 128, 192), (0, 0, 64), (0, 64, 64), (192, 64, 128), (128, 128, 0), (192, 128, 192),
        (64, 0, 64), (192, 192, 0), (0, 0, 0), (64, 192, 0),
    ],
    np.uint8,
)  # fmt: skip
"""Colours (32, 3) in the order of Label."""

SEGNET: tuple[tuple[str, tuple[Label, ...]], ...] = (
    ("Sky", (Label.Sky,)),
    ("Building", (Label.Building, Label.Archway, Label.Bridge, Label.Tunnel, Label.Wall)),
    ("Pole", (Label.Column_Pole, Label.TrafficCone)),
    ("Road", (Label.Road, Label.LaneMkgsDriv, Label.LaneMkgsNonDriv)),
    ("Pavement", (Label.Sidewalk, Label.ParkingBlock, Label.RoadShoulder)),
    ("Tree", (Label.Tree, Label.VegetationMisc)),
    ("SignSymbol", (Label.SignSymbol, Label.Misc_Text, Label.TrafficLight)),
    ("Fence", (Label.Fence,)),
    ("Car", (Label.Car, Label.SUVPickupTruck, Label.Truck_Bus, Label.Train, Label.OtherMoving)),
    ("Pedestrian", (Label.Pedestrian, Label.Child, Label.CartLuggagePram, Label.Animal)),
    ("Bicyclist", (Label.Bicyclist, Label.MotorcycleScooter)),
)
"""The 11 classes in SegNet's order, 0 to 10, and what each is made of; Void alone is left, as 11."""


def to_segnet() -> npt.NDArray[np.uint8]:
    """Index (32,) uint8: Label -> 0 to 10, or 11 for Void."""
    index = np.full(len(Label), len(SEGNET), np.uint8)
    for number, (_, labels) in enumerate(SEGNET):
        index[list(labels)] = number
    return index
