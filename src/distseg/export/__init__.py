"""The winner as one self-contained file, checked against the model it came from."""
