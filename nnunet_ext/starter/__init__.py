"""The starter: a small model inside the package, for users who have none yet.

`starter.json` names its version and the SHA-256 of each of its files. They lie in `model/`, an ordinary model of nnU-Net.
"""
