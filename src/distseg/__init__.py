"""distseg trains image-segmentation models on many GPUs, searches for the best one and exports it.

Importing the package loads neither torch nor ray; each module imports what it needs.
"""

__version__ = "0.1.0"
